import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import evoprune as ep
from evoprune.baselines import BASELINES
from evoprune.runs.result import rank_correlation


@pytest.fixture(scope="module")
def result(digits: ep.Problem) -> ep.Result:
    return ep.k_starts(digits, k=5, sparsity=0.8, fitness_epochs=2)


def test_the_fittest_wins(result: ep.Result) -> None:
    assert result.mask.fitness.values[0] == max(mask.fitness.values[0] for mask in result.population)
    assert len(result.population) == len(result.evaluations) == 5
    assert result.logbook[0]["max"] == result.mask.fitness.values[0] == result.summary["winner_fitness"]


def test_the_winner_goes_on_from_where_it_is(result: ep.Result) -> None:
    winner = next(e for e in result.evaluations if e.mask == result.mask.hash)
    assert result.trainings["winner"].history[1]["validation_loss"] == winner.validation_loss
    assert len(result.trainings["winner"].history) == 3


def test_the_model_is_the_trained_masked_network(result: ep.Result, digits: ep.Problem) -> None:
    state = result.model.state_dict()
    for name, layer in result.mask.layers.items():
        assert not state[name][torch.from_numpy(~layer)].any()
    x, y = digits.data.test
    with torch.no_grad():
        accuracy = float((result.model(x).argmax(1) == y).double().mean())
    assert accuracy == result.summary["test_accuracy"]


def test_costs_and_counts(result: ep.Result, digits: ep.Problem) -> None:
    assert result.summary["search_epochs"] == 10
    assert result.summary["total_epochs"] == 11  # one of three is left after two of the brief training
    assert result.summary["survivors"] == round(0.2 * digits.prunable_count)
    assert result.summary["sparsity"] == 1 - result.summary["survivors"] / digits.prunable_count


def test_controls(result: ep.Result) -> None:
    least = min(result.evaluations, key=lambda e: e.validation_loss)
    assert result.summary["controls"]["validation"]["mask"] == least.mask
    assert result.summary["controls"]["random"]["mask"] in {e.mask for e in result.evaluations}
    assert {len(training.history) for training in result.trainings.values()} == {3}


def test_rank_correlation_is_spearmans(result: ep.Result) -> None:
    fitness = [mask.fitness.values[0] for mask in result.population]
    accuracy = [e.validation_accuracy for e in result.evaluations]
    ranks = [stats.rankdata(values) for values in (fitness, accuracy)]
    assert result.summary["spearman_rho"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_rank_correlation_needs_three_and_spread(result: ep.Result) -> None:
    assert math.isnan(rank_correlation(result.population[:2], result.evaluations[:2]))
    same = [result.evaluations[0]] * 5
    assert math.isnan(rank_correlation(result.population, same))


def test_restart_trains_from_w0_in_another_order(result: ep.Result, digits: ep.Problem) -> None:
    restarted = ep.k_starts(digits, k=5, sparsity=0.8, fitness_epochs=2, restart=True)
    assert restarted.mask == result.mask
    assert restarted.summary["total_epochs"] == 13
    assert restarted.trainings["winner"].history[0] != result.trainings["winner"].history[0]


def test_same_seed_same_result(result: ep.Result, digits: ep.Problem) -> None:
    again = ep.k_starts(digits, k=5, sparsity=0.8, fitness_epochs=2)
    assert [e.terms for e in again.evaluations] == [e.terms for e in result.evaluations]
    assert all(value.equal(again.model.state_dict()[name]) for name, value in result.model.state_dict().items())
    other = ep.k_starts(digits, k=5, sparsity=0.8, fitness_epochs=2, seed=1)
    assert other.mask != result.mask


@pytest.mark.parametrize("k", [0, -1, True, 2.0])
def test_bad_k_is_refused(digits: ep.Problem, k: object) -> None:
    with pytest.raises(ep.InputError, match="k is"):
        ep.k_starts(digits, k=k)


def test_all_failed_is_an_error() -> None:
    problem = ep.Problem(model="mlp", recipe=ep.Recipe(epochs=1, lr=1e9))
    with pytest.raises(ep.RunError, match="all 2 evaluations failed"):
        ep.k_starts(problem, k=2, fitness_epochs=1)


def test_failed_starts_are_passed_over(digits: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    from evoprune.evaluation import brief

    calls = []

    def sometimes(*arguments: object) -> object:
        calls.append(1)
        if len(calls) % 2:
            raise ValueError("odd")
        return train_group(*arguments)

    train_group = brief._train_group
    monkeypatch.setattr(brief, "_train_group", sometimes)
    result = ep.k_starts(digits, k=4, fitness_epochs=1)
    assert result.summary["failed"] == 2
    assert [math.isinf(mask.fitness.values[0]) for mask in result.population] == [True, False, True, False]
    assert np.isfinite(result.logbook[0]["mean"])


def test_progress_is_shown(digits: ep.Problem, capsys: pytest.CaptureFixture[str]) -> None:
    ep.k_starts(digits, k=2, fitness_epochs=1, progress=True)
    shown = capsys.readouterr().err
    assert "generation 0: 100%" in shown
    assert "training: 100%" in shown


def test_dissipating_goes_on_or_starts_again(digits: ep.Problem) -> None:
    on = ep.dissipate(digits, sparsity=0.9, dissipate_epochs=2, engine="sparse")
    again = ep.dissipate(digits, sparsity=0.9, dissipate_epochs=2, engine="sparse", restart=True)
    assert on.mask == again.mask
    assert (on.summary["search_epochs"], on.summary["total_epochs"]) == (2, 3)
    assert (again.summary["search_epochs"], again.summary["total_epochs"]) == (2, 5)
    epochs = [row["multiply_adds"] for row in on.trainings["winner"].history]
    epoch = 3 * len(digits.data.train[0])
    n, s1, s2 = digits.prunable_count, *(row["survivors"] for row in on.trainings["winner"].history[:2])
    assert epochs == [epoch * n, epoch * (n + s1), epoch * (n + s1 + s2)]
    assert on.summary["multiply_adds"] == epochs[-1]
    assert again.summary["multiply_adds"] == epochs[1] + 3 * epoch * s2


def test_the_combination_is_k_starts_and_then_dissipating(digits: ep.Problem) -> None:
    shared = {"k": 4, "fitness_epochs": 1, "engine": "sparse"}
    starts = ep.k_starts(digits, sparsity=0.5, **shared)
    both = ep.combine(digits, first_sparsity=0.5, sparsity=0.9, dissipate_epochs=2, **shared)
    assert [e.terms for e in both.evaluations] == [e.terms for e in starts.evaluations]
    assert both.summary["start"] == starts.summary["mask"] == starts.mask.hash
    assert not (both.mask.bits & ~starts.mask.bits).any()
    assert both.summary["survivors"] == round(0.1 * digits.prunable_count)
    winner = both.trainings["winner"]
    first = next(e for e in both.evaluations if e.mask == both.summary["start"])
    assert winner.history[0]["multiply_adds"] == first.multiply_adds
    assert [removal["epoch"] for removal in winner.removals] == [1, 2]
    assert (both.summary["search_epochs"], both.summary["total_epochs"]) == (5, 6)
    assert both.summary["multiply_adds"] == sum(e.multiply_adds for e in both.evaluations[1:]) + winner.cost(3)


def test_the_combination_chooses_among_what_has_dissipated(digits: ep.Problem) -> None:
    options = {"k": 3, "fitness_epochs": 2, "first_sparsity": 0.5, "sparsity": 0.9, "dissipate_epochs": 2, "engine": "sparse"}
    result = ep.combine(digits, select="end", fitness="loss", **options)
    least = min(result.evaluations, key=lambda e: e.validation_loss)
    assert result.summary["start"] == least.mask
    assert result.trainings["winner"].history[1]["validation_loss"] == least.validation_loss
    assert (result.summary["search_epochs"], result.summary["total_epochs"]) == (6, 7)
    again = ep.combine(digits, select="end", fitness="loss", restart=True, **options)
    assert again.mask == result.mask
    assert (again.summary["search_epochs"], again.summary["total_epochs"]) == (6, 9)
    survivors = result.mask.survivors * 3 * len(digits.data.train[0])
    searched = sum(e.multiply_adds for e in result.evaluations)
    assert again.summary["multiply_adds"] == pytest.approx(searched + 3 * survivors, rel=1e-12)


def test_costs_where_the_brief_training_outlasts_the_removals(digits: ep.Problem) -> None:
    options = {"k": 2, "fitness_epochs": 3, "first_sparsity": 0.5, "sparsity": 0.9, "dissipate_epochs": 1, "select": "end"}
    result = ep.combine(digits, restart=True, **options)
    evaluated = sum(e.multiply_adds for e in result.evaluations)
    assert result.summary["multiply_adds"] == evaluated + result.trainings["winner"].cost(3)


def test_a_note_is_of_the_mask_that_is_left() -> None:
    problem = ep.Problem("lenet-300-100", recipe=ep.Recipe(epochs=1))
    options = {"k": 2, "fitness_epochs": 1, "first_sparsity": 0.5, "sparsity": 0.999, "dissipate_epochs": 1, "select": "end"}
    result = ep.combine(problem, movement="relative", **options)
    winner = next(e for e in result.evaluations if e.mask == result.summary["start"])
    assert winner.note == result.summary["collapse"] == str(result.mask.collapse(problem))


def test_a_baseline_is_trained_from_w0(digits: ep.Problem) -> None:
    result = ep.baseline(digits, "snip", sparsity=0.9)
    assert result.mask == ep.baselines.snip(digits, sparsity=0.9)
    assert result.summary["total_epochs"] == pytest.approx(3 + 100 / len(digits.data.train[0]))
    state = result.model.state_dict()
    assert not any(state[name][torch.from_numpy(~layer)].any() for name, layer in result.mask.layers.items())
    with pytest.raises(ep.InputError, match="baseline"):
        ep.baseline(digits, "snap")


@pytest.mark.parametrize("method", ["dissipate", "combine", "baseline"])
def test_recorded_runs_come_back(digits: ep.Problem, tmp_path: Path, method: str) -> None:
    def run() -> ep.Result:
        if method == "dissipate":
            return ep.dissipate(digits, sparsity=0.9, dissipate_epochs=2, out=tmp_path)
        if method == "combine":
            return ep.combine(digits, k=2, sparsity=0.9, first_sparsity=0.5, dissipate_epochs=2, out=tmp_path)
        return ep.baseline(digits, "lottery-ticket", sparsity=0.9, out=tmp_path)

    first = run()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    (tmp_path / "result.json").unlink()  # as if killed before the last file
    second = run()
    assert second.mask == first.mask == ep.Mask.load(tmp_path / "mask.npz")
    assert second.summary == first.summary
    assert all(path.stat().st_mtime_ns == t for path, t in written.items() if path.parent.name == "checkpoint")
    assert all(value.equal(second.model.state_dict()[name]) for name, value in first.model.state_dict().items())


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", sorted(BASELINES))
def test_masks_at_three_nines_reach_every_output_or_say_so(name: str) -> None:
    problem = ep.Problem("lenet-300-100", recipe=ep.Recipe(epochs=1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        summary = ep.baseline(problem, name, sparsity=0.999).summary
        mask = BASELINES[name].prune(problem, sparsity=0.999, seed=0)
    assert summary["collapse"] == str(mask.collapse(problem))
    assert len(said) == (2 if summary["collapse"] else 0)
    assert all(f"cuts off: {summary['collapse']};" in str(warning.message) for warning in said)


@pytest.mark.parametrize("method", ["k_starts", "combine"])
def test_starts_at_three_nines_reach_every_output_or_say_so(method: str) -> None:
    problem = ep.Problem("lenet-300-100", recipe=ep.Recipe(epochs=2))
    options = {"k": 2, "fitness_epochs": 1, "controls": False, "sparsity": 0.999}
    result = getattr(ep, method)(problem, **options, **({"dissipate_epochs": 2} if method == "combine" else {}))
    assert result.summary["survivors"] == round(0.001 * problem.prunable_count)
    assert result.summary["collapse"] == str(result.mask.collapse(problem))
