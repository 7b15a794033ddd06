"""Estimators keep scikit-learn's manners, and search as the package does."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import evoprune as ep

TINY: dict[str, Any] = {"hidden_layer_sizes": (16,), "sparsity": 0.5, "random_state": 0, "options": {"engine": "module"}}
PLAIN: dict[str, Any] = {**TINY, "method": "erk", "epochs": 12, "recipe": {"lr": 0.02}}
FEW: dict[str, Any] = {**TINY, "k": 3, "fitness_epochs": 1, "epochs": 3}


@pytest.fixture(scope="module")
def iris() -> tuple[Any, Any]:
    x, y = load_iris(return_X_y=True)
    return x, y


@pytest.mark.sampled(40)
@parametrize_with_checks([ep.SparseClassifier(**PLAIN), ep.SparseRegressor(**{**PLAIN, "epochs": 25})])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_its_mask_is_that_of_the_search(iris: tuple[Any, Any]) -> None:
    model = ep.SparseClassifier(**FEW).fit(*iris)
    assert model.mask_ is model.result_.mask
    assert model.mask_.survivors == round(0.5 * (4 * 16 + 16 * 3))
    weights = dict(model.module_.named_parameters())
    for name, kept in model.mask_.layers.items():
        assert torch.equal(weights[name] != 0, torch.from_numpy(kept.copy())), name
    summary = model.result_.summary
    assert (summary["method"], summary["k"], len(model.result_.trainings["winner"].history)) == ("kstarts", 3, 3)


def test_predictions_are_those_of_the_module(iris: tuple[Any, Any]) -> None:
    x, y = iris
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = ep.SparseClassifier(**{**PLAIN, "epochs": 40}).fit(x, names)
    with torch.no_grad():
        outputs = model.module_(torch.from_numpy(x).float())
    assert model.predict_proba(x) == pytest.approx(outputs.softmax(1).numpy(), abs=1e-5)
    assert model.predict(x).tolist() == model.classes_[outputs.argmax(1).numpy()].tolist()
    assert model.score(x, names) == np.mean(model.predict(x) == names) > 0.6


@pytest.mark.parametrize("method", ["dissipate", "gmp", "erk", "combine", "evolve"])
def test_any_method(iris: tuple[Any, Any], method: str) -> None:
    more = {
        "evolve": {"generations": 1, "trained_bests": 0},
        "dissipate": {"dissipate_epochs": 2},
        "combine": {"dissipate_epochs": 1},
    }
    options = {"engine": "module", **more.get(method, {})}
    of_masks = {"k": 2, "fitness_epochs": 1} if method in ("combine", "evolve") else {}
    model = ep.SparseClassifier((16,), 0.6, method, options=options, epochs=4, random_state=0, **of_masks).fit(*iris)
    assert model.result_.summary["method"] == method
    assert model.mask_.sparsity == pytest.approx(0.6, abs=0.02)


def test_the_same_seed_has_the_same_bits_and_another_has_others(iris: tuple[Any, Any]) -> None:
    first, again = (ep.SparseClassifier(**FEW).fit(*iris) for _ in range(2))
    other = ep.SparseClassifier(**{**FEW, "random_state": 1}).fit(*iris)
    assert first.mask_ == again.mask_ != other.mask_
    assert np.array_equal(first.predict_proba(iris[0]), again.predict_proba(iris[0]))
    stream = np.random.RandomState(0)
    drawn = [ep.SparseClassifier(**{**FEW, "random_state": stream}).fit(*iris).mask_ for _ in range(2)]
    assert drawn[0] == first.mask_ != drawn[1]


def test_clones_and_parameters() -> None:
    model = ep.SparseClassifier(**FEW)
    twin = clone(model)
    assert twin is not model
    assert twin.get_params() == model.get_params()
    assert {name: twin.get_params()[name] for name in FEW} == FEW
    assert twin.set_params(sparsity=0.7).sparsity == 0.7
    assert repr(model).startswith("SparseClassifier(epochs=3")


def test_a_fitted_estimator_pickles(iris: tuple[Any, Any]) -> None:
    model = ep.SparseClassifier(**FEW).fit(*iris)
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.predict_proba(iris[0]), model.predict_proba(iris[0]))
    assert copy.mask_ == model.mask_


def test_a_pipeline_and_a_grid_search(iris: tuple[Any, Any]) -> None:
    pipeline = make_pipeline(StandardScaler(), ep.SparseClassifier(**PLAIN))
    grid = GridSearchCV(pipeline, {"sparseclassifier__sparsity": [0.2, 0.9]}, cv=2).fit(*iris)
    assert [p["sparseclassifier__sparsity"] for p in grid.cv_results_["params"]] == [0.2, 0.9]
    best = grid.best_estimator_[-1]
    assert best.mask_.sparsity == pytest.approx(grid.best_params_["sparseclassifier__sparsity"], abs=0.01)
    assert grid.score(*iris) > 0.8


def test_columns_of_a_frame_have_names(iris: tuple[Any, Any]) -> None:
    frame = pd.DataFrame(iris[0], columns=list("abcd"))
    model = ep.SparseClassifier(**FEW).fit(frame, pd.Series(iris[1]).map({0: "x", 1: "y", 2: "z"}))
    assert (model.feature_names_in_.tolist(), model.n_features_in_, model.classes_.tolist()) == (list("abcd"), 4, list("xyz"))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("dcba")])


def test_a_regressor_undoes_the_scale_of_its_targets() -> None:
    x, y = make_regression(120, 5, n_targets=2, random_state=0)
    y = y * [1.0, 1000.0] + [0.0, 50_000.0]
    model = ep.SparseRegressor(**{**PLAIN, "sparsity": 0.2, "epochs": 40}).fit(x, y)
    assert model.predict(x).shape == (120, 2)
    assert model.score(x, y) > 0.8
    single = ep.SparseRegressor(**PLAIN).fit(x, y[:, 1])
    assert single.predict(x).shape == (120,)
    constant = ep.SparseRegressor(**PLAIN).fit(x, np.full(120, 7.0))  # whose deviation is 0
    assert np.isfinite(constant.predict(x)).all()


def test_targets_whose_deviation_overflows_are_refused() -> None:
    x, y = make_regression(30, 4, random_state=0)
    with pytest.raises(ValueError, match="scale y"):
        ep.SparseRegressor(**PLAIN).fit(x, y * 1e200)


def test_nothing_is_written_or_printed(
    iris: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        ep.SparseClassifier(**{**PLAIN, "sparsity": 0.97}).fit(*iris)  # which cuts off neurons
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")
    assert not said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 1.5}, "sparsity is 1.5"),
        ({"method": "snp"}, "unknown method 'snp'.*Did you mean 'snip'"),
        ({"k": 3}, "unknown option 'k'"),
        ({"options": {"restrat": True}}, "unknown option 'restrat'"),
        ({"epochs": 0}, "epochs is 0; expected a positive integer"),
        ({"recipe": {"epochs": 3}}, "epochs is given in recipe"),
        ({"recipe": ep.Recipe()}, "recipe is Recipe.*; expected a dictionary"),
        ({"options": {"sparsity": 0.9}}, "sparsity is given in options.*; expected it as the parameter sparsity alone"),
        ({"hidden_layer_sizes": (0,)}, "widths"),
        ({"hidden_layer_sizes": 16}, "hidden_layer_sizes is 16; expected widths"),
        ({"hidden_layer_sizes": (8.7,)}, r"hidden_layer_sizes is \(8.7,\); expected widths"),
        ({"options": {"sparsity": 0.5}}, "sparsity is given in options"),
        ({"k": 3, "options": {"k": 4}}, "k is given in options"),
        ({"options": [3]}, r"options is \[3\]; expected a dictionary"),
        ({"recipe": [3]}, r"recipe is \[3\]; expected a dictionary"),
    ],
)
def test_values_that_cannot_be_used_are_refused(iris: tuple[Any, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        ep.SparseClassifier(**{**PLAIN, **change}).fit(*iris)


def test_labels_of_one_class_are_refused_and_an_estimator_that_was_not_fitted(iris: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="y has one class, a; expected labels of at least two classes"):
        ep.SparseClassifier(**PLAIN).fit(iris[0], ["a"] * 150)
    for model in (ep.SparseClassifier(), ep.SparseRegressor()):
        with pytest.raises(NotFittedError):
            model.predict(iris[0])
    with pytest.raises(TypeError, match="sample_weight"):
        ep.SparseClassifier(**PLAIN).fit(*iris, sample_weight=np.ones(150))
