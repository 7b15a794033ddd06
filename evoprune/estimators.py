"""Sparse perceptrons with scikit-learn's manners: they fit in pipelines, grid searches and cross-validation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from evoprune.errors import CollapseWarning, InputError
from evoprune.masks.mask import Mask
from evoprune.options import make
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe
from evoprune.runs.result import Result
from evoprune.search.method import Method
from evoprune.search.registry import prune

# For small tables of numbers; any of it can be given otherwise.
RECIPE = {"optimizer": "Adam", "lr": 0.01, "weight_decay": 0.0, "batch_size": 32}


class _SparsePerceptron(BaseEstimator):  # type: ignore[misc]
    """A perceptron with ReLU whose mask a search finds; see :class:`SparseClassifier`."""

    def __init__(  # noqa: PLR0913 - scikit-learn reads the parameters from here
        self,
        hidden_layer_sizes: Sequence[int] = (100,),
        sparsity: float = 0.9,
        method: str | Method = "kstarts",
        k: int | None = None,
        fitness_epochs: int | None = None,
        options: Mapping[str, Any] | None = None,
        epochs: int = 100,
        recipe: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.sparsity = sparsity
        self.method = method
        self.k = k
        self.fitness_epochs = fitness_epochs
        self.options = options
        self.epochs = epochs
        self.recipe = recipe
        self.random_state = random_state

    def _search(self, x: NDArray[Any], y: NDArray[Any], loss: str) -> None:
        """Finds a mask and trains its network. Masks are chosen by a part of the examples, and no test set is split off."""
        self._require_mappings()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        inputs, targets = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)
        given = Data(train=(inputs, targets), test=(inputs[:1], targets[:1])).split(seed)
        data = given.with_parts({"test": given.parts()["validation"]})
        problem = Problem("mlp", data, self._recipe(), loss=loss, widths=self._widths(), seed=seed)
        named = {"k": self.k, "fitness_epochs": self.fitness_epochs}
        options = {**{name: value for name, value in named.items() if value is not None}, **(self.options or {})}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)  # it is in the result
            self.result_: Result = prune(problem, self.method, sparsity=self.sparsity, **options)
        self.mask_: Mask = self.result_.mask
        self.module_ = self.result_.model

    def _require_mappings(self) -> None:
        for name in ("options", "recipe"):
            given: Any = getattr(self, name)
            if given is not None and not isinstance(given, Mapping):
                raise InputError(f"{name} is {given!r}; expected a dictionary of options by name, or None.")
        for name in ("sparsity", "method", "k", "fitness_epochs"):
            if name in (self.options or {}) and getattr(self, name) is not None:
                raise InputError(f"{name} is given in options, {self.options!r}; expected it as the parameter {name} alone.")

    def _recipe(self) -> Recipe:
        own = self.recipe or {}
        if "epochs" in own:
            raise InputError(f"epochs is given in recipe, {self.recipe!r}; expected the parameter epochs.")
        return make(Recipe, {**RECIPE, **own, "epochs": self.epochs})

    def _widths(self) -> tuple[int, ...]:
        sizes: Any = self.hidden_layer_sizes
        if not isinstance(sizes, (list, tuple, np.ndarray)) or not all(isinstance(n, (int, np.integer)) for n in sizes):
            raise InputError(f"hidden_layer_sizes is {sizes!r}; expected widths, such as (100,).")
        return tuple(int(width) for width in sizes)

    def _outputs(self, X: Any) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's name
        """Returns the network's outputs [n, outputs], computed in float64: a row's do not depend on the other rows."""
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        with torch.no_grad():
            return np.asarray(copy.deepcopy(self.module_).double()(torch.tensor(x)))


class SparseClassifier(ClassifierMixin, _SparsePerceptron):  # type: ignore[misc]
    """A classifier: a sparse perceptron whose mask is searched at initialization, and which is then trained.

    Labels may be of any type. Inputs are taken as they are: put a ``StandardScaler`` before it in a pipeline. A tenth of the
    examples chooses among masks. Nothing is written or printed. Weights of samples are not supported.

    Args:
        hidden_layer_sizes: Widths of the hidden layers.
        sparsity: Fraction of the weights to remove, at least 0 and below 1.
        method: Name of any method, such as ``kstarts``, ``evolve``, ``dissipate`` or ``snip``, or a method itself.
        k: Number of masks, for methods that have the option; None: the method's default.
        fitness_epochs: Epochs of the brief training, for methods that have the option; None: the method's default.
        options: Further options of the method, such as ``{"restart": True}``, and those of
            :class:`evoprune.search.execution.Execution`, such as ``{"engine": "module"}``.
        epochs: Epochs of the full training.
        recipe: Further fields of :class:`evoprune.Recipe`; without them, Adam with ``lr`` 0.01 and batches of 32.
        random_state: Seed of everything drawn; the same integer gives the same bits.

    Attributes:
        classes_: The labels, sorted.
        mask_: The mask that was found.
        module_: The trained ``torch.nn.Module``.
        result_: All that the search has found; its ``test_accuracy`` is of the examples that chose among masks.
        n_features_in_: Number of features.
        feature_names_in_: Names of the features, if they were columns of a data frame.

    Example:
        >>> model = make_pipeline(StandardScaler(), ep.SparseClassifier(sparsity=0.95, random_state=0))
        >>> model.fit(x_train, y_train).score(x_test, y_test)
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's name
        """Finds a mask and trains its network.

        Args:
            X: Inputs [n, features].
            y: Labels [n], of at least two classes.

        Raises:
            ValueError: Inputs or labels that cannot be used, or a value out of range.
            evoprune.RunError: The training diverged, as with inputs that are not scaled.
        """
        x, labels = validate_data(self, X, y, ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]}; expected labels of at least two classes.")
        self._search(x, codes, "cross-entropy")
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's name
        """Returns the probabilities [n, classes] of the classes in ``classes_``."""
        return np.asarray(torch.softmax(torch.from_numpy(self._outputs(X)), dim=1))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803 - scikit-learn's name
        """Returns the most probable labels [n]."""
        most_probable = self._outputs(X).argmax(axis=1)
        return np.asarray(self.classes_[most_probable])


class SparseRegressor(RegressorMixin, _SparsePerceptron):  # type: ignore[misc]
    """A regressor of one or several targets, by the mean squared error; see :class:`SparseClassifier` for its arguments.

    Targets are shifted and scaled to mean 0 and standard deviation 1 while it is trained.
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's name
        """Finds a mask and trains its network.

        Args:
            X: Inputs [n, features].
            y: Targets [n] or [n, targets].

        Raises:
            ValueError: Inputs or targets that cannot be used, or a value out of range.
            evoprune.RunError: The training diverged, as with inputs that are not scaled.
        """
        x, targets = validate_data(self, X, y, ensure_min_samples=2, multi_output=True, y_numeric=True)
        self._is_single = targets.ndim == 1
        columns = targets.reshape(len(targets), -1).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            self._mean, deviation = columns.mean(axis=0), columns.std(axis=0)
        if not np.isfinite(deviation).all():
            raise ValueError(f"y has values up to {np.abs(columns).max():.2g}, whose deviation overflows; scale y.")
        self._deviation = np.where(deviation > 0, deviation, 1.0)
        self._search(x, ((columns - self._mean) / self._deviation).astype(np.float32), "mse")
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's name
        """Returns the predicted targets, shaped as those of :meth:`fit`."""
        targets: NDArray[np.float64] = self._outputs(X) * self._deviation + self._mean
        return targets[:, 0] if self._is_single else targets

    def __sklearn_tags__(self) -> Any:
        """Returns scikit-learn's tags: several targets are supported."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
