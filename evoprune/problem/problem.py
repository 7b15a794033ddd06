"""Problem: a network, data, a loss and a training recipe; its initial weights W0 and the prunable ones among them."""

from __future__ import annotations

import copy
import functools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.options import later_of, make, takes
from evoprune.problem.augmentation import Augmentation, augment, find_augmentations
from evoprune.problem.augmentation import rehearse as rehearse_augmentation
from evoprune.problem.code import identify_code, own_code, tensors_of
from evoprune.problem.data import Data, Inputs
from evoprune.problem.draws import Draws, draw
from evoprune.problem.examples import Examples
from evoprune.problem.identity import Identified, digest_of, hash_of
from evoprune.problem.load import load_for_problem, place
from evoprune.problem.losses import LOSSES, Loss, chance_loss, choose_loss, losses_of, on_device, with_options
from evoprune.problem.metrics import find_metrics, own_metrics, stopping_of, try_metrics
from evoprune.problem.models import MODELS, NamedModel
from evoprune.problem.network import check_device, copied_module, describe, initial_network, warn_of_unprunable
from evoprune.problem.options import ProblemOptions
from evoprune.problem.prunable import prunable, unprunable, uses
from evoprune.problem.recipe import Recipe
from evoprune.problem.rehearsal import rehearse, rehearse_recipe
from evoprune.problem.weights import scale_for_density
from evoprune.system.forks import settle


class Problem:
    """A network to prune, with its initial weights W0, data, a loss and a training recipe.

    A problem is a value: nothing changes it after it is made, and problems that can train differently have different hashes.
    A problem that is made of built-in names alone pickles as those names; any other pickles its module and tensors.

    Args:
        model: Name of a model (see :data:`evoprune.problem.models.MODELS`), a ``torch.nn.Module`` (copied, never changed), or a
            function that returns one; it is called with ``input_shape`` and ``classes`` if it requires them, and with
            ``widths`` if they are given.
        data: Name of a data set (see :func:`evoprune.problem.load.load`), a :class:`evoprune.problem.data.Data`, or a function
            that returns one.
        recipe: How networks are trained.
        loss: Name of a loss, or a function (outputs, targets) -> mean loss of the batch, a scalar tensor; None takes the named
            model's own, and for others cross-entropy where the targets are class labels, else mse.
        augment: Names of random changes of each training batch, such as ``("crop:4", "flip")``, or functions of a batch
            [b, ...] that return one of the same shape; see :mod:`evoprune.problem.augmentation`. They are drawn once a batch,
            the same for all individuals.
        options: Any field of :class:`evoprune.problem.options.ProblemOptions`, such as ``seed=1`` or ``exclude="fc3"``.

    Attributes:
        options: The options, resolved: the names that records have, and the defaults that depend on model and data.
        recipe: How networks are trained.
        shapes: Shape of the prunable weights by parameter name, in ``named_parameters`` order.
        metrics: The metrics that are recorded beside loss and accuracy, by name.
        is_known: The network is one of the package's, so that calling it changes nothing but running averages.
        is_classification: Whether accuracy is defined: the targets are class labels, and the network has an output for each.
        data: The split data, on the device.
        data_named_by: How parts of the user's data are identified, by part, where that is not the digest of their content.
        augmentations: The functions that change each training batch, in turn.
        unprunable: Shape of the matrix-like weights that are not prunable, though they were not excluded, by parameter name.
        refusals: The reasons why engines cannot serve the problem, by name, kept by :func:`evoprune.engines.check.require`.
        programs: The network as engines have compiled it, by name, and as the report of collapse uses it.

    Raises:
        InputError: A value that cannot be served, or network, data and loss that do not fit: a training step is tried.
    """

    @takes(ProblemOptions)
    def __init__(
        self,
        model: str | nn.Module | Callable[..., nn.Module] = "lenet-300-100",
        data: str | Data | Callable[..., Data] = "digits",
        recipe: Recipe | None = None,
        *,
        loss: str | Loss | None = None,
        augment: str | Augmentation | Sequence[str | Augmentation] = (),
        **options: Any,
    ) -> None:
        settle()
        names, self.augmentations = find_augmentations(augment)
        named = {"data": data} if isinstance(data, str) else {}
        given = make(ProblemOptions, {**options, "augment": names, **named})
        self._model = copied_module(model) if isinstance(model, nn.Module) else MODELS.find(model)  # before the data are loaded
        if isinstance(model, nn.Module) and given.widths is not None:
            raise InputError(f"widths are {given.widths}; they go with a model by name, not with a module of your own.")
        entry = self._model if isinstance(self._model, NamedModel) else NamedModel(type(self._model))
        check_device(given.device)
        self.metrics = find_metrics(given.metrics)
        self.recipe = recipe or Recipe()
        self._loaded = load_for_problem(given.data if named else data, given, entry.takes_floats)
        self.data, self.data_named_by = self._loaded.data, self._loaded.named_by
        self.loss_name, self._own_loss = choose_loss(entry.loss if loss is None else loss, self.data.train[1])
        self._loss = on_device(with_options(self.loss_name, self._own_loss, given, self.data), given.device)
        self.options = replace(
            given,
            model=MODELS.name_of(model) if isinstance(model, str) else describe(model),
            data=self.data.name,
            loss=self.loss_name,
            seed=seeds.check_seed(given.seed),
            weights_seed=None if given.weights_seed is None else seeds.check_seed(given.weights_seed),
            initialization=given.initialization or ("kaiming" if entry.is_built_in else "given"),
            widths=entry.widths if given.widths is None else given.widths,
            data_dir=place(given.data_dir),  # now, since the working folder may change
            metrics=tuple(self.metrics),
        )
        self.dtype: torch.dtype = getattr(torch, self.options.dtype)
        self._template = initial_network(self._model, self.data, self.options)
        self.shapes: dict[str, torch.Size] = prunable(self._template, given.exclude, given.include)
        self.unprunable: dict[str, torch.Size] = unprunable(self._template, given.exclude, given.include)
        warn_of_unprunable(self.unprunable)
        self._scale_w0()
        self._template.to(self.device)
        self.refusals: dict[str, str] = {}
        self.programs: dict[str, Any] = {}
        self.is_known = entry.is_built_in
        self.is_classification = rehearse(self, self._loaded.own or self.data, self.is_known and self.loss_name in LOSSES)
        rehearse_augmentation(self.augmentations, self.data.train[0])
        try_metrics(self)

    @property
    def seed(self) -> int:
        """The seed of W0, the split and all that a run draws unless the run is given its own."""
        return self.options.seed

    @property
    def device(self) -> str:
        """Where networks are trained."""
        return self.options.device

    @property
    def prunable_count(self) -> int:
        """Number of prunable weights, n."""
        return sum(shape.numel() for shape in self.shapes.values())

    @property
    def parameter_count(self) -> int:
        """Number of all of the network's parameters, biases included."""
        return sum(parameter.numel() for parameter in self._template.parameters())

    def network(self) -> nn.Module:
        """Returns a new network at W0, with its initial buffers, in training mode, on the device."""
        settle()
        return copy.deepcopy(self._template)

    def redrawn(self, weights_seed: int) -> Problem:
        """Returns this problem with W0 drawn anew: the same split, batches, recipe and all else.

        If W0 is that of a given module, each of its layers draws its own default (``pytorch``). Parameters outside of layers
        stay as they are, since nothing says how to draw them.

        Args:
            weights_seed: Seeds W0.

        Raises:
            InputError: Some prunable weights come out as they were.
        """
        make, (config, own) = self.__reduce__()
        initialization = self.options.initialization
        as_given = isinstance(self._model, nn.Module) and initialization == "given"
        changes = {"weights_seed": weights_seed, "initialization": "pytorch" if as_given else initialization}
        problem: Problem = make({**config, **changes}, own)
        before, after = self._template.state_dict(), problem._template.state_dict()
        same = [name for name in self.shapes if torch.equal(before[name], after[name])]
        if same:
            raise InputError(
                f"W0 redrawn with seed {weights_seed} has {', '.join(same)} as before; expected another seed than "
                f"W0's own, and a model function that draws from torch's generator."
            )
        return problem

    def with_seed(self, seed: int) -> Problem:
        """Returns this problem with another seed, so another split, order of batches and W0; a given module keeps its W0.

        Args:
            seed: The seed.
        """
        if seed == self.seed:
            return self
        make, (config, own) = self.__reduce__()
        problem: Problem = make({**config, "seed": seed}, own)
        return problem

    def with_recipe(self, recipe: Recipe) -> Problem:
        """Returns this problem with another recipe; data, split and W0 are shared.

        Raises:
            InputError: The recipe does not suit the problem.
        """
        twin: Problem = object.__new__(Problem)
        twin.__dict__.update(self.__dict__, recipe=recipe, refusals={}, programs={})
        rehearse_recipe(twin)
        stopping_of(twin)
        return twin

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss of a batch, a scalar."""
        return self._loss(outputs, targets)

    @property
    def loss_function(self) -> Loss:
        """The function of outputs and targets that gives the mean loss of a batch."""
        return self._loss

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss [K] of outputs [K, batch, ...] against one target [batch, ...]."""
        return losses_of(self.loss_name, self._loss, outputs, targets)

    def part(self, name: str) -> tuple[Inputs, Inputs]:
        """Returns the inputs, and the targets that outputs are compared with, of ``train``, ``validation`` or ``test``."""
        x, y = self.data.parts()[name]
        return (x, x) if self.loss_name == "reconstruction" else (x, y)

    @property
    def is_drawn(self) -> bool:
        """Whether training batches are drawn anew each time: augmented, or read from a data set that draws."""
        x = self.data.train[0]
        return bool(self.augmentations) or (isinstance(x, Examples) and x.is_drawn)

    def batch(self, rows: Tensor, draw: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns training examples, and the targets that outputs are compared with.

        Args:
            rows: Their numbers [b].
            draw: Seeds the augmentation, and the reading of a data set that draws; None returns the examples as they are.
        """
        x, y = self.data.train
        change = None if draw is None or not self.augmentations else functools.partial(augment, self.augmentations, draw)
        if isinstance(x, Examples):
            found = x.index_select(0, rows, change, draw)
        else:
            found = x.index_select(0, rows) if change is None else change(x.index_select(0, rows))
        return found, found if self.loss_name == "reconstruction" else y.index_select(0, rows)

    @cached_property
    def w0(self) -> NDArray[np.floating[Any]]:
        """The initial prunable weights [n], in the order of a mask's bits."""
        parameters = dict(self._template.named_parameters())
        return np.concatenate([parameters[name].detach().cpu().numpy().reshape(-1) for name in self.shapes])

    @cached_property
    def uses(self) -> dict[str, float]:
        """How often an example's forward pass uses each prunable weight, see :func:`evoprune.problem.prunable.uses`."""
        return uses(self.network(), list(self.shapes), self.data.train[0][:1])

    @cached_property
    def draws(self) -> Draws:
        """Inputs and weights that stand in for the problem's own in reports of collapse; drawing them takes long."""
        return draw(self.network(), self.data.train[0])

    @cached_property
    def chance_loss(self) -> float | None:
        """Validation loss of the best prediction that ignores the input, see :func:`evoprune.problem.losses.chance_loss`."""
        return chance_loss(self.loss_name, self.part("validation")[1][:], self._loss, self._outputs)

    @cached_property
    def _outputs(self) -> int:
        """Number of the network's outputs in the second dimension, over which labels are smoothed; 0 without smoothing."""
        if not self.options.label_smoothing:
            return 0
        with seeds.seeded(0, self.device), torch.no_grad():
            return int(self.network().eval()(self.part("train")[0][:1]).shape[1])

    @property
    def hash(self) -> str:
        """SHA-256, in hex, of everything that decides the problem's results; see :meth:`identify`.

        It is the same in every process, wherever the code is stored.
        """
        return hash_of(self.identify())

    def identify(self) -> dict[str, str]:
        """Returns a digest of each part in which problems can differ, as it is now: globals may have changed.

        Returns:
            ``weights`` (W0 and buffers), ``data`` (as they are stored, and their split), ``recipe``, ``settings`` (seed,
            prunable names and dtype), ``network`` and ``loss`` (code, attributes and the globals that they read), or instead
            of the two the given ``identity``; ``schedule`` and ``optimizer`` if they are the user's own; and ``metric`` if the
            final training stops by one of the user's own.

        Raises:
            InputError: Model or loss hold a thing that cannot be identified, such as an open file.
        """
        shapes = {name: tuple(shape) for name, shape in self.shapes.items()}
        recorded = self.recipe.recorded() | dict.fromkeys(self.recipe.own, "own")  # whose code counts, not the name
        recipe = json.dumps(recorded, sort_keys=True, default=repr)  # as a record has it: a tuple is a list
        return {
            "weights": self.weights_digest,
            "data": self.data_digest,
            "recipe": digest_of("recipe", recipe),
            "settings": digest_of("settings", [self.seed, shapes, str(self.dtype)]),
            **{name: found.digest for name, found in self._identify_code().items()},
        }

    @property
    def texts(self) -> dict[str, str]:
        """The text of each piece of the user's code, see :class:`evoprune.problem.identity.Identified`."""
        return {key: text for found in self._identify_code().values() for key, text in found.texts.items()}

    def _identify_code(self) -> dict[str, Identified]:
        loss: Any = self.loss_name if self.loss_name in LOSSES else self._own_loss
        if self.options.label_smoothing or self.options.class_weights is not None:
            loss = [loss, self.options.label_smoothing, self.options.class_weights]
        own = own_code(self.recipe, self.metrics, list(zip(self.options.augment, self.augmentations, strict=True)))
        return identify_code(self._template, loss, own, self.options)

    @cached_property
    def weights_digest(self) -> str:
        """A digest of W0 and the initial buffers."""
        return digest_of("weights", dict(tensors_of(self._template)))

    @cached_property
    def data_digest(self) -> str:
        """A digest of the data as they are stored, and of their split."""
        return digest_of("data", self._loaded.identity(self.options))

    def config(self) -> dict[str, Any]:
        """Returns the problem's configuration as JSON values; :meth:`from_config` is its inverse.

        A module, tensors or loss of the user's own are named by their class, for the record only.
        """
        named = {"model": self.options.model, "data": self.options.data}
        values = {**named, "recipe": self.recipe.recorded(), **vars(self.options)}
        del values["data_dir"]  # a place
        # left out where they say nothing, so that runs that were recorded without them still match
        later = later_of(ProblemOptions)
        values = {name: value for name, value in values.items() if later.get(name, ...) != value}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        density = self.options.w0_density
        return {**values, **lists, "w0_density": dict(density) if isinstance(density, Mapping) else density}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, recipe: Recipe | None = None, **own: Any) -> Problem:
        """Makes the problem that a configuration describes.

        Args:
            config: The result of :meth:`config`.
            recipe: The recipe, if its schedule or optimiser was the user's own.
            **own: Further arguments of the problem that were the user's own, such as ``model``, ``data`` or ``loss``; and
                ``data_dir``, a place, and so no part of the configuration. None stands for one that was not.

        Raises:
            InputError: The configuration names a ``data_dir``, so :meth:`config` did not write it.
        """
        if "data_dir" in config:
            raise InputError(f"the configuration names a data_dir, {config['data_dir']!r}; remove it, and pass data_dir.")
        values = dict(config)
        values["recipe"] = recipe or Recipe(**values["recipe"])
        return cls(**values | {name: value for name, value in own.items() if value is not None})

    def __reduce__(self) -> tuple[Any, ...]:
        model = self._model if isinstance(self._model, nn.Module) else self._model.own
        own = {
            "model": model,
            "data": self._loaded.own,
            "loss": self._own_loss if self.loss_name not in LOSSES else None,
            "augment": self.augmentations or None,
            "recipe": self.recipe if self.recipe.own else None,
            "data_dir": self.options.data_dir,
            "include": None if model is None else tuple(self.shapes),  # another process may not know the user's kinds
            "metrics": {name: name for name in self.metrics} | own_metrics(self.metrics),
        }
        return _unpickle, (self.config(), own)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Problem) and self.hash == other.hash)

    def __hash__(self) -> int:
        return int(self.hash[:15], 16)

    def _scale_w0(self) -> None:
        density = self.options.w0_density
        if density is not None:
            each = density if isinstance(density, Mapping) else dict.fromkeys(self.shapes, density)
            scale_for_density(self._template, dict(each))


def _unpickle(config: Mapping[str, Any], own: Mapping[str, Any]) -> Problem:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first process has given the warning already
        include = own.get("include") or config.get("include", ())
        problem = Problem.from_config(
            {**config, "include": include}, **{name: value for name, value in own.items() if name != "include"}
        )
    # the function and the names came along, but records keep what was given
    include, augment = (tuple(config.get(name, ())) for name in ("include", "augment"))
    problem.options = replace(problem.options, model=config["model"], include=include, augment=augment)
    return problem
