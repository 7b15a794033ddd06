"""Early stopping of final trainings, and metrics in the records of runs."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import evoprune as ep
from evoprune.comparison.frames import read_cells
from evoprune.engines.registry import ENGINES
from evoprune.runs import records
from evoprune.search import final
from evoprune.training.final import FinalTraining, Training, train_fully, train_together
from evoprune.training.measure import measure
from evoprune.training.stopping import EarlyStopping

X = torch.randn(90, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
RECIPE = ep.Recipe(epochs=8, lr=0.1, batch_size=10)
METRICS = ("balanced-accuracy", "ece")


def problem(recipe: ep.Recipe = RECIPE, metrics: Any = (), labels: Tensor = Y) -> ep.Problem:
    """With other labels for the validation than for the training, it gets worse the better the network learns."""
    data = ep.Data(train=(X[:50], Y[:50]), validation=(X[50:70], labels[50:70]), test=(X[70:], Y[70:]))
    return ep.Problem("mlp", data, recipe, widths=(8,), metrics=metrics, seed=1)


def worsening(metrics: Any = (), **recipe: Any) -> ep.Problem:
    return problem(replace(RECIPE, **recipe), metrics, labels=2 - Y)


def masks(p: ep.Problem, count: int) -> list[ep.Mask]:
    rng = np.random.default_rng(0)
    return [ep.random_mask(p.shapes, 0.3 + 0.2 * k, rng) for k in range(count)]


def watched(curves: Sequence[Sequence[float | None]], schedule: Any = None, **recipe: Any) -> tuple[EarlyStopping, int]:
    """Shows the curves of some individuals to early stopping; returns it and the epoch at which training ended."""
    name = recipe.get("stop_by", "validation_loss")
    stopping = EarlyStopping(problem(replace(RECIPE, **recipe)), len(curves), schedule)
    for epoch, values in enumerate(zip(*curves, strict=True), start=1):
        now: Any = SimpleNamespace(masks=[f"mask {epoch}"] * len(curves), state=lambda k, epoch=epoch: {"epoch": epoch, "k": k})
        if stopping.after_epoch(epoch, now, [{name: value} for value in values]):
            return stopping, epoch
    return stopping, epoch


def test_each_individual_stops_at_its_own_epoch() -> None:
    falling, rising = [8.0, 7, 6, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6, 7, 8]
    stopping, ended = watched([rising, [5, 4, 4, 5, 3, 6, 6, 6]], stop_patience=2)
    assert ended == 4  # as good as the best is not better
    assert stopping.stopped == [3, 4]
    assert [(best.epoch, best.mask, best.state) for best in stopping.best if best] == [
        (1, "mask 1", {"epoch": 1, "k": 0}), (2, "mask 2", {"epoch": 2, "k": 1}),
    ]  # fmt: skip
    stopping, ended = watched([rising, falling], stop_patience=2)
    assert (ended, stopping.stopped) == (8, [3, None])
    assert [best.epoch for best in stopping.best if best] == [1, 8]


def test_training_that_ends_by_itself_has_not_stopped() -> None:
    stopping, ended = watched([[5, 4, 3, 2, 1, 0, 1, 1]], stop_patience=2)
    assert (ended, stopping.stopped) == (8, [None])
    assert stopping.best[0] is not None
    assert stopping.best[0].epoch == 6


def test_larger_accuracy_is_better_and_a_value_that_is_not_finite_never_is() -> None:
    stopping, _ = watched([[0.1, 0.4, 0.3, 0.2, 0.5, 0, 0, 0]], stop_patience=3, stop_by="validation_accuracy")
    assert (stopping.stopped, stopping.best[0] and stopping.best[0].epoch) == ([None], 5)
    stopping, _ = watched([[None, 3, None, None, 1, 1, 1, 1]], stop_patience=2)
    assert (stopping.stopped, stopping.best[0] and stopping.best[0].epoch) == ([4], 2)
    stopping, _ = watched([[None] * 8], stop_patience=2)
    assert (stopping.stopped, stopping.best[0] and stopping.best[0].epoch) == ([3], 1)


def test_epochs_count_once_the_masks_stay() -> None:
    curve = [[1.0, 1, 5, 6, 4, 6, 7, 8]]
    stopping, _ = watched(curve, SimpleNamespace(every=None, last=3), stop_patience=2)
    assert (stopping.stopped, stopping.best[0] and stopping.best[0].epoch) == ([7], 5)
    stopping, _ = watched(curve, SimpleNamespace(every=None), stop_patience=2)  # it may change them until the end
    assert (stopping.stopped, stopping.best[0] and stopping.best[0].epoch) == ([None], 8)


def expected_of(history: Sequence[dict[str, Any]], patience: int) -> tuple[int, int | None]:
    """Returns the best epoch and the one of the stop, from a whole history, by its definition."""
    losses = [row["validation_loss"] for row in history]
    for epoch in range(1, len(losses)):
        best = losses.index(min(losses[:epoch])) + 1
        if epoch - best >= patience:
            return best, epoch
    return losses.index(min(losses)) + 1, None


@pytest.mark.parametrize("engine", ["module", "stacked"])
@pytest.mark.parametrize("patience", [1, 2])
def test_a_stopped_training_is_the_whole_one_until_its_best_epoch(engine: str, patience: int) -> None:
    whole, stopping = problem(replace(RECIPE, lr=1.0)), problem(replace(RECIPE, lr=1.0, stop_patience=patience))
    chosen = masks(whole, 3)
    groups = [chosen] if engine == "stacked" else [[mask] for mask in chosen]
    how = Training(engine, 3)
    full = [t for group in groups for t in train_together(whole, group, how)]
    found = [t for group in groups for t in train_together(stopping, group, how)]
    assert len({(t.best_epoch, t.stopped_epoch) for t in found}) > 1
    for k, (all_epochs, training) in enumerate(zip(full, found, strict=True)):
        best, stopped = expected_of(all_epochs.history, patience)
        assert (training.best_epoch, training.stopped_epoch) == (best, stopped)
        assert training.history == all_epochs.history[:stopped]
        assert training.epochs == len(training.history)
        assert training.validation_loss == all_epochs.history[best - 1]["validation_loss"]
        assert training.cost(8) == all_epochs.cost(stopped or 8)
        if engine == "module":
            until = train_fully(whole, chosen[k], replace(how, epochs=best))
            assert all(torch.equal(until.state[name], tensor) for name, tensor in training.state.items())
        network = whole.network().eval()
        network.load_state_dict(training.state)
        loss = torch.nn.functional.cross_entropy(network(X[70:]), Y[70:]).detach()
        assert training.test_loss == pytest.approx(float(loss), rel=1e-5)


def test_other_trainings_than_final_ones_do_not_stop() -> None:
    training = train_fully(worsening(stop_patience=1), masks(problem(), 1)[0], Training("module", 3, epochs=8))
    assert len(training.history) == 8
    assert training.best_epoch is None
    result = ep.k_starts(worsening(stop_patience=1), k=2, fitness="loss", fitness_epochs=3, engine="module", restart=True)
    assert result.summary["search_epochs"] == 6


def test_a_run_records_the_stop_and_counts_the_epochs_that_were_trained(tmp_path: Path) -> None:
    options = {"sparsity": 0.5, "engine": "module"}
    whole = ep.baseline(worsening(), "erk", **options)
    result = ep.baseline(worsening(stop_patience=2), "erk", **options, out=tmp_path)
    facts = json.loads((tmp_path / "result.json").read_text())
    assert (facts["best_epoch"], facts["stopped_epoch"]) == (1, 3)
    assert facts["total_epochs"] == 3
    assert facts["multiply_adds"] == pytest.approx(whole.summary["multiply_adds"] * 3 / 8)
    rows = records.read_rows(tmp_path / "history.csv")
    assert [row["epoch"] for row in rows] == ["1.0", "2.0", "3.0"]
    assert repr(facts["validation_loss"]) == rows[0]["validation_loss"] < rows[1]["validation_loss"]
    assert facts["validation_loss"] < whole.summary["validation_loss"]
    assert facts["test_accuracy"] == result.trainings["winner"].test_accuracy != whole.summary["test_accuracy"]
    assert {"best_epoch", "stopped_epoch"}.isdisjoint(whole.summary)
    config = json.loads((tmp_path / "config.json").read_text())["settings"]["problem"]
    assert config["recipe"]["stop_patience"] == 2
    assert "stop_by" not in config["recipe"]


def test_a_search_counts_the_epochs_of_a_stop_within_its_brief_training_once() -> None:
    options = {"k": 3, "sparsity": 0.5, "fitness": "loss", "fitness_epochs": 3, "engine": "module"}
    whole, stopped = ep.k_starts(worsening(), **options), ep.k_starts(worsening(stop_patience=1), **options)
    assert (stopped.summary["best_epoch"], stopped.summary["stopped_epoch"]) == (1, 2)
    assert {facts["stopped_epoch"] for facts in stopped.summary["controls"].values()} == {2}
    assert whole.summary["total_epochs"] == 3 * 3 + 8 - 3
    assert stopped.summary["total_epochs"] == stopped.summary["search_epochs"] == 3 * 3
    assert stopped.summary["multiply_adds"] == pytest.approx(sum(e.multiply_adds for e in stopped.evaluations))


@pytest.mark.parametrize("method", ["dissipate", "gmp", "rigl"])
@pytest.mark.parametrize("restart", [False, True])
def test_under_a_schedule_the_result_has_the_final_mask(method: str, restart: bool) -> None:
    more = {"dissipate_epochs": 3} if method == "dissipate" else {}
    options = {"sparsity": 0.5, "engine": "module", "restart": restart, **more}
    whole, stopped = (ep.prune(p, method, **options) for p in (worsening(), worsening(stop_patience=1)))
    assert stopped.mask == whole.mask
    last = max(removal["epoch"] for removal in whole.trainings["winner"].removals)
    facts = stopped.summary
    assert facts["sparsity"] == whole.summary["sparsity"]
    assert facts["best_epoch"] >= (1 if restart else last)
    assert facts["stopped_epoch"] == facts["best_epoch"] + 1 < 8
    assert whole.summary["total_epochs"] - facts["total_epochs"] == 8 - facts["stopped_epoch"]
    assert facts["multiply_adds"] < whole.summary["multiply_adds"]


def numbers(result: ep.Result) -> dict[str, Any]:
    """Returns all that a result says, apart from the time."""
    trainings = {
        role: (t.mask.hash, t.history, t.test_loss, t.test_metrics, t.best_epoch, t.stopped_epoch,
               {name: tensor.tolist() for name, tensor in t.state.items()})
        for role, t in result.trainings.items()
    }  # fmt: skip
    return {"trainings": trainings, "summary": {**result.summary, "seconds": 0}}


def test_an_interrupted_run_is_resumed_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"k": 6, "sparsity": 0.5, "fitness": "metric:ece", "fitness_epochs": 1, "engine": "module"}
    p = problem(replace(RECIPE, lr=1.0, stop_patience=2, stop_by="validation_ece"), METRICS)
    expected = numbers(ep.k_starts(p, **options, out=tmp_path / "whole"))
    assert len({trained[0] for trained in expected["trainings"].values()}) > 1
    begun = 0

    def stop_in_the_second(problem: ep.Problem, chosen: Sequence[ep.Mask], training: Training) -> list[FinalTraining]:
        nonlocal begun
        begun += 1

        def on_epoch() -> None:
            if begun == 2:
                raise KeyboardInterrupt

        return train_together(problem, chosen, replace(training, on_epoch=on_epoch))

    with monkeypatch.context() as patch:
        patch.setattr(final, "train_together", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            ep.k_starts(p, **options, out=tmp_path / "run")
    for _ in range(2):  # once resumed, once finished
        assert numbers(ep.k_starts(p, **options, out=tmp_path / "run")) == expected
    for name in ("history.csv", "generations.csv"):
        timed = [{k: v for k, v in row.items() if k != "seconds"} for row in records.read_rows(tmp_path / "run" / name)]
        assert timed == [
            {k: v for k, v in row.items() if k != "seconds"} for row in records.read_rows(tmp_path / "whole" / name)
        ]


def test_metrics_are_in_all_records_and_change_no_other_number(tmp_path: Path) -> None:
    options = {"k": 3, "sparsity": 0.5, "fitness": "loss", "fitness_epochs": 1, "engine": "module"}
    p = problem(metrics=METRICS)
    plain, result = ep.k_starts(problem(), **options, out=tmp_path / "plain"), ep.k_starts(p, **options, out=tmp_path / "run")
    columns = ["validation_balanced-accuracy", "validation_ece"]
    for name in ("history.csv", "evaluations.csv"):
        was, now = (list(csv.reader((tmp_path / f / name).read_text().splitlines())) for f in ("plain", "run"))
        assert [column for column in now[0] if column not in was[0]] == columns
        kept = [now[0].index(column) for column in was[0] if column not in ("seconds", "worker", "check")]
        before = [was[0].index(now[0][i]) for i in kept]
        assert [[row[i] for i in kept] for row in now] == [[row[i] for i in before] for row in was]
        assert all(0 <= float(row[now[0].index(column)]) <= 1 for row in now[1:] for column in columns)
    facts = json.loads((tmp_path / "run/result.json").read_text())
    new = {"test_balanced-accuracy", "test_ece", *columns}
    assert set(facts) - set(plain.summary) == new
    for role in facts["controls"]:
        assert new <= set(facts["controls"][role])
    network = result.model
    assert facts["test_ece"] == pytest.approx(p.metrics["ece"](network(X[70:]).detach(), Y[70:]), abs=1e-6)
    last = [row for row in records.read_rows(tmp_path / "run/history.csv") if row["role"] == "winner"][-1]
    assert facts["validation_ece"] == float(last["validation_ece"])


def test_a_run_with_other_metrics_or_other_code_is_another_run(tmp_path: Path) -> None:
    def worst(outputs: Tensor, targets: Tensor) -> float:
        return float(outputs.max())

    options: dict[str, Any] = {"sparsity": 0.5, "engine": "module", "out": tmp_path}
    ep.baseline(problem(metrics=worst), "erk", **options)
    with pytest.raises(ep.errors.InputError, match=r"another run: problem.metrics was \['own.*worst'\], now None"):
        ep.baseline(problem(), "erk", **options)
    changed = worst

    def worst(outputs: Tensor, targets: Tensor) -> float:  # type: ignore[no-redef]
        return float(outputs.min())

    assert changed is not worst
    with pytest.raises(ep.errors.InputError, match="these have changed: metric own"):
        ep.baseline(problem(metrics=worst), "erk", **options)


def test_a_population_is_measured_as_each_individual_alone() -> None:
    p = problem(metrics=METRICS)
    chosen = masks(p, 3)
    together = measure(ENGINES["stacked"].build(p, chosen), p, "validation").metrics
    alone = [measure(ENGINES["module"].build(p, [mask]), p, "validation").metrics for mask in chosen]
    for name in METRICS:
        np.testing.assert_allclose(together[name], [each[name][0] for each in alone], rtol=1e-5)


def test_a_metric_is_a_fitness(tmp_path: Path) -> None:
    options = {"k": 4, "sparsity": 0.5, "fitness_epochs": 1, "engine": "module", "controls": False}
    by = {name: ep.k_starts(problem(metrics=METRICS), fitness=f"metric:{name}", **options) for name in METRICS}
    for name, sign in (("balanced-accuracy", 1), ("ece", -1)):
        values = [sign * e.terms[f"validation_{name}"] for e in by[name].evaluations]
        assert [mask.fitness.values for mask in by[name].population] == [(value,) for value in values]
        assert by[name].summary["winner_fitness"] == max(values)
    with pytest.raises(ep.errors.InputError, match="no such metric; add it to metrics"):
        ep.k_starts(problem(), fitness="metric:ece", **options)
    nowhere = ep.k_starts(problem(metrics=lambda o, t: math.nan if len(t) else 0.0), fitness="loss", **options)
    assert nowhere.summary["failed"] == 0


def test_a_comparison_has_the_metrics_of_its_cells(tmp_path: Path) -> None:
    options = {"model": "mlp", "widths": (6,), "epochs": 1, "sparsities": (0.5,), "engine": "module", "workers": "serial"}
    ep.compare(methods=("erk",), seeds=1, metrics=("f1",), out=tmp_path, **options)
    table = ep.compare(methods=("erk", "random"), seeds=1, metrics=("f1",), out=tmp_path, **options)
    assert list(read_cells(tmp_path / "cells.csv").columns)[-1] == "test_f1"
    for row in table.to_dict("records"):
        folder = next((tmp_path / "cells").glob(f"{row['method']}-*"))
        assert row["test_f1"] == json.loads((folder / "result.json").read_text())["test_f1"] > 0
    with pytest.raises(ep.errors.InputError, match="given by name"):
        ep.compare(methods=("erk",), seeds=1, metrics=(len,), out=tmp_path / "other", **options)
