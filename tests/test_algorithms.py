import math

import numpy as np
import pytest
import torch
from scipy import stats

import evoprune as ep
from evoprune import algorithms


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
    assert math.isnan(algorithms.rank_correlation(result.population[:2], result.evaluations[:2]))
    same = [result.evaluations[0]] * 5
    assert math.isnan(algorithms.rank_correlation(result.population, same))


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
    from evoprune import evaluate

    calls = []

    def sometimes(*arguments: object) -> object:
        calls.append(1)
        if len(calls) % 2:
            raise ValueError("odd")
        return train_group(*arguments)

    train_group = evaluate._train_group
    monkeypatch.setattr(evaluate, "_train_group", sometimes)
    result = ep.k_starts(digits, k=4, fitness_epochs=1)
    assert result.summary["failed"] == 2
    assert [math.isinf(mask.fitness.values[0]) for mask in result.population] == [True, False, True, False]
    assert np.isfinite(result.logbook[0]["mean"])


def test_progress_is_shown(digits: ep.Problem, capsys: pytest.CaptureFixture[str]) -> None:
    ep.k_starts(digits, k=2, fitness_epochs=1, progress=True)
    shown = capsys.readouterr().err
    assert "evaluating: 100%" in shown
    assert "training: 100%" in shown
