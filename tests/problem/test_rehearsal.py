"""Targets, losses and values that do not fit are found before any training."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.rehearsing import LABELS, ROWS, X, Y, network, of, problem
from torch import Tensor, nn
from torch.nn import functional as F

import evoprune as ep
from evoprune.engines.check import require
from evoprune.engines.registry import ENGINES
from evoprune.errors import InputError
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.job import BriefTraining, Job

PARTS = list(ROWS)


def flat() -> nn.Module:
    return network(1, nn.Flatten(0))


# The losses that are built in


BUILT_IN: dict[str, tuple[Tensor, str, nn.Module, str]] = {
    "mse [n] for [n, 1]": (
        Y,
        "mse",
        network(),
        r"outputs are \(8, 1\), targets \(8,\);.*give y.reshape\(-1, 1\)",
    ),
    "mse [n, 1] for [n]": (Y[:, None], "mse", flat(), r"outputs are \(8,\), targets \(8, 1\).*give y.reshape\(-1\)"),
    "mse other width": (X, "mse", network(3), "expected the same: change the network's outputs or the targets"),
    "mse float classes": (LABELS.float(), "mse", network(2), "expected the same: for classes give integers"),
    "float labels": (LABELS.float(), "cross-entropy", network(2), r"for classes give integers, y.long\(\)"),
    "regression": (X[:, :2], "cross-entropy", network(2), "not negative and sum to 1.*for regression loss='mse'"),
    "weights": (X[:, :2].abs(), "cross-entropy", network(2), "not negative and sum to 1"),
    "one output": (Y[:, None], "cross-entropy", network(), "probabilities of two or more classes"),
    "one class": (LABELS * 0, "cross-entropy", network(), "expected at least two classes"),
    "one-hot integers": (F.one_hot(LABELS), "cross-entropy", network(2), r"give y.argmax\(1\)"),
    "column of labels": (LABELS[:, None], "cross-entropy", network(2), r"labels \(8, 1\).*give y.reshape\(-1\)"),
    "ignored": (torch.where(LABELS > 0, LABELS, -100), "cross-entropy", network(2), "labels from -100 to 1"),
}


@pytest.mark.parametrize(("y", "loss", "model", "said"), BUILT_IN.values(), ids=BUILT_IN.keys())
def test_targets_that_do_not_fit_a_known_loss_are_refused_with_the_cure(
    y: Tensor, loss: str, model: nn.Module, said: str
) -> None:
    with pytest.raises(InputError, match=f"^train .*{said}") as error:
        problem(y, loss, model)
    assert "\n" not in str(error.value)


SERVED: dict[str, tuple[Tensor, str | None, nn.Module]] = {
    "mse": (Y[:, None], None, network()),
    "mse [n]": (Y, None, flat()),
    "mse of counts": (LABELS[:, None], "mse", network()),
    "labels": (LABELS, None, network(2)),
    "labels of places": (torch.stack([LABELS, LABELS], 1), None, nn.Sequential(network(4), nn.Unflatten(1, (2, 2)))),
    "probabilities": (F.one_hot(LABELS).float() * 0.9 + 0.05, "cross-entropy", network(2)),
    "reconstruction": (LABELS, "reconstruction", network(6)),
}


@pytest.mark.parametrize(("y", "loss", "model"), SERVED.values(), ids=SERVED.keys())
def test_targets_that_fit_are_served(y: Tensor, loss: str | None, model: nn.Module) -> None:
    assert problem(y, loss, model).prunable_count > 0


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("size", [1, 7])
def test_every_part_is_checked(part: str, size: int) -> None:
    parts = of(Y[:, None]).parts()
    parts[part] = (X[:size], Y[:size])
    with pytest.raises(InputError, match=r"train|validation|test"):
        ep.Problem(network(), ep.Data(**parts), loss="mse")


class ByLength(nn.Module):
    """Its outputs have another shape in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if self.training else self.linear(x)[:, 0]


def test_outputs_are_checked_in_evaluation_mode() -> None:
    with pytest.raises(InputError, match=r"validation outputs are \(8,\), targets \(8, 1\)"):
        problem(Y[:, None], "mse", ByLength())


# A loss of the user's own


def mean_of(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda outputs, y: loss(outputs, y).mean()


# reshape by themselves, or do not compare outputs with targets one by one
RIGHT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "column": lambda o, y: ((o - y[:, None]) ** 2).mean(),
    "last": lambda o, y: ((o - y.unsqueeze(-1)) ** 2).mean(),
    "first": lambda o, y: ((o[:, 0] - y) ** 2).mean(),
    "squeeze": lambda o, y: ((o.squeeze() - y) ** 2).mean(),
    "squeeze(1)": lambda o, y: ((o.squeeze(1) - y) ** 2).mean(),
    "view_as": lambda o, y: ((o - y.view_as(o)) ** 2).mean(),
    "flat": lambda o, y: ((o.flatten() - y.flatten()) ** 2).mean(),
    "function": lambda o, y: F.mse_loss(o[:, 0], y),
    "weighted": lambda o, y: ((o[:, 0] - y) ** 2 * y.abs()).sum() / y.abs().sum(),
    "no targets": lambda o, y: (o**2).mean(),
    "moments": lambda o, y: (o.mean() - y.mean()) ** 2,
    "correlation": lambda o, y: -torch.corrcoef(torch.stack([o.flatten(), y]))[0, 1],
}


# compare every output with every target
WRONG: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squares": mean_of(lambda o, y: (o - y) ** 2),
    "distances": mean_of(lambda o, y: (o - y).abs()),
    "root": lambda o, y: ((o - y) ** 2).mean().sqrt(),
    "weighted": lambda o, y: ((o - y) ** 2 * y.abs()).sum() / y.abs().expand_as(o - y).sum(),
    "poisson": lambda o, y: F.poisson_nll_loss(o, y.abs()),
    "sigmoid": mean_of(lambda o, y: (o.sigmoid() - y) ** 2),
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "huber_loss": F.huber_loss,
    "MSELoss": nn.MSELoss(),
}


@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize("loss", RIGHT.values(), ids=RIGHT.keys())
def test_a_loss_that_reshapes_by_itself_is_served(loss: Any, scale: float) -> None:
    assert problem(Y * scale, loss).loss_name.endswith("<lambda>")


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("loss", WRONG.values(), ids=WRONG.keys())
def test_a_loss_that_broadcasts_is_refused_with_the_cure(loss: Any, scale: float) -> None:
    with pytest.raises(InputError, match=r"broadcasts .*outputs \(\d+, 1\) against targets \(\d+,\).*give y.reshape\(-1, 1\)"):
        problem(Y * scale, loss)
    with pytest.raises(InputError, match=r"broadcasts .*outputs \(\d+,\) against targets \(\d+, 1\).*give y.reshape\(-1\)"):
        problem(Y[:, None] * scale, loss, flat())
    assert problem(Y[:, None] * scale, loss).prunable_count


def test_a_warning_that_was_given_before_is_an_error_all_the_same() -> None:
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            F.mse_loss(torch.zeros(3, 1), torch.zeros(3))
        with pytest.raises(InputError, match="the loss broadcasts train outputs"):
            problem(Y, F.mse_loss)


def test_other_warnings_of_a_loss_are_only_warnings() -> None:
    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        warnings.warn("of my own", stacklevel=2)
        return F.mse_loss(outputs, y)

    with pytest.warns(UserWarning, match="of my own"):
        problem(Y[:, None], loss)


def test_images_that_broadcast_are_refused() -> None:
    x, y = torch.randn(40, 1, 5, 5), torch.randn(40, 5, 5)
    convolution = nn.Conv2d(1, 1, 3, padding=1)
    with pytest.raises(InputError, match=r"broadcasts outputs \(\d+, 1, 5, 5\).*give y.reshape\(-1, 1, 5, 5\)"):
        ep.Problem(convolution, ep.Data(train=(x, y)), loss=WRONG["squares"])
    assert ep.Problem(convolution, ep.Data(train=(x, y[:, None])), loss=WRONG["squares"]).prunable_count == 9


def test_zero_outputs_and_sorted_targets_hide_nothing() -> None:
    model = network()
    nn.init.zeros_(model[2].weight)  # type: ignore[index]
    nn.init.zeros_(model[2].bias)  # type: ignore[index]
    for y in (Y, Y.sort().values, LABELS.float()):
        with pytest.raises(InputError, match="compares every output with every target"):
            problem(y, WRONG["squares"], model)
        assert problem(y, RIGHT["column"], model).prunable_count


def test_a_loss_that_refuses_the_shapes_names_the_cure() -> None:
    with pytest.raises(InputError, match=r"refuses train outputs \(8, 1\) with targets \(8,\).*give y.reshape\(-1, 1\)"):
        problem(LABELS.float(), F.binary_cross_entropy_with_logits)


@pytest.mark.parametrize("part", PARTS)
def test_a_last_batch_of_one_is_rehearsed_in_every_part(part: str) -> None:
    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return ((outputs.squeeze()[:] - y) ** 2).mean()  # fails for a batch of one

    sizes = dict.fromkeys(PARTS, 64) | {part: 129 if part == "train" else 1001}
    rows = torch.arange(1100) % 300
    assert ep.Problem(network(), ep.Data(train=(X, Y), validation=(X, Y), test=(X, Y)), loss=loss).prunable_count
    data = ep.Data(**{name: (X[rows[:size]], Y[rows[:size]]) for name, size in sizes.items()})
    with pytest.raises(InputError, match=rf"failed on {part} inputs \(1, 6\)"):
        ep.Problem(network(), data, loss=loss)


# Values


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["inputs", "targets"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_in_every_part(part: str, kind: str, value: float) -> None:
    x, y = X.clone(), Y[:, None].clone()
    (x if kind == "inputs" else y)[ROWS[part].start + 3, -1] = value
    place = r"\[3, 5\]" if kind == "inputs" else r"\[3, 0\]"
    count = (ROWS[part].stop - ROWS[part].start) * (6 if kind == "inputs" else 1)
    with pytest.raises(InputError, match=rf"{part} {kind} have 1 NaN or infinite value among {count:,}, the first at {place}"):
        problem(y, "mse", x=x)


def test_places_are_those_of_the_data_as_given() -> None:
    x = X.clone()
    x[123, 2] = torch.nan
    with pytest.raises(InputError, match=r"train inputs have 1 NaN or infinite value among 1,800, the first at \[123, 2\]"):
        ep.Problem(network(2), ep.Data(train=(x, LABELS)))


def test_what_float32_cannot_hold_is_refused_and_float64_serves_it() -> None:
    x = X.double().clone()
    x[123, 2] = 1e39
    with pytest.raises(InputError, match=r"train inputs have 1 value too large for float32.*dtype='float64'"):
        ep.Problem(network(2), ep.Data(train=(x, LABELS)))
    assert ep.Problem(network(2), ep.Data(train=(x, LABELS)), dtype="float64").prunable_count


def missing(outputs: Tensor, y: Tensor) -> Tensor:
    there = ~y.isnan()
    return ((outputs[:, 0] - y)[there] ** 2).mean()


def test_nan_targets_may_mean_missing_under_a_loss_of_ones_own() -> None:
    y = Y.clone()
    y[:100] = torch.nan
    y[200::2] = torch.nan
    assert problem(y, missing).prunable_count
    with pytest.raises(InputError, match=r"targets have 150 NaN|targets have \d+ NaN"):
        problem(y[:, None], "mse")
    with pytest.raises(InputError, match=r"of the untrained network is nan on \d+ train examples"):
        problem(y, RIGHT["first"])
    with pytest.raises(InputError, match="compares every output with every target"):
        problem(y, lambda o, t: ((o - t)[~(o - t).isnan()] ** 2).mean())
    y[7] = torch.inf
    with pytest.raises(InputError, match=r"train targets have 1 NaN or infinite value among 200, the first at \[7\]"):
        problem(y, missing)
    x = X.clone()
    x[7, 0] = torch.nan
    with pytest.raises(InputError, match=r"train inputs have 1 NaN"):
        problem(Y, missing, x=x)


@pytest.mark.parametrize("part", PARTS)
def test_a_loss_that_is_not_finite_before_any_training_is_refused(part: str) -> None:
    x = X.abs()
    x[ROWS[part]] *= -1
    model = nn.Linear(6, 1)
    nn.init.ones_(model.weight)

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return outputs.log().mean()  # only of positive outputs

    nn.init.zeros_(model.bias)
    with pytest.raises(InputError, match=rf"of the untrained network is nan on \d+ {part} examples; expected a finite number"):
        problem(Y[:, None], loss, model, x)


def test_a_w0_scaled_for_sparse_networks_may_be_too_large_for_the_dense_one() -> None:
    deep = nn.Sequential(*(nn.Linear(6, 6) for _ in range(12)))
    assert problem(X, "mse", deep, w0_density=1e-8).prunable_count == 12 * 36


def test_integers_stay_integers_for_an_embedding_and_are_explained_to_others() -> None:
    words = (X * 9).abs().long()
    embedding = nn.Sequential(nn.Embedding(60, 4), nn.Flatten(), nn.Linear(24, 2))
    with pytest.warns(UserWarning, match=r"not prunable, and so dense: 0.weight \[60, 4\]"):
        assert problem(LABELS, None, embedding, words).data.train[0].dtype == torch.int64
    with pytest.raises(InputError, match=r"same dtype.*the inputs are integers: give x.float\(\)"):
        problem(LABELS, None, network(2), words)


@pytest.mark.parametrize(
    ("y", "loss", "outputs", "said"),
    [
        (LABELS.float(), nn.CrossEntropyLoss(), 2, r"whole numbers of a float type: give y.long\(\)"),
        (LABELS.float(), nn.NLLLoss(), 2, r"whole numbers of a float type: give y.long\(\)"),
        (LABELS[:, None], nn.BCEWithLogitsLoss(), 1, r"targets are integers: give y.float\(\)"),
    ],
)
def test_targets_of_the_wrong_type_for_a_loss_of_ones_own_name_the_cure(y: Tensor, loss: Any, outputs: int, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        problem(y, loss, network(outputs))
    assert "\n" not in str(error.value)


def test_labels_that_a_loss_of_ones_own_ignores_pass() -> None:
    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y, ignore_index=-100)

    assert problem(torch.where(LABELS > 0, LABELS, -100), loss, network(2)).is_classification


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_regression_with_one_number_an_example(engine: str) -> None:
    regression = problem(X[:, 0] * 2, None, nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)))
    masks = [ep.Mask(np.ones(6, bool), regression.shapes)]
    try:
        require(engine, regression)
    except InputError:
        assert engine != "module"
        return
    (found,) = evaluate_chunk(Job(regression, BriefTraining(1, 0, engine)), masks)
    assert np.isfinite(found.validation_loss)
