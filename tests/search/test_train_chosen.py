"""The full training of the winner and the controls: as one population where that changes no bit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.processes import python_anew

import evoprune as ep
from evoprune.search import final
from evoprune.training.final import FinalTraining, Training, train_together

SEARCH = {"k": 6, "sparsity": 0.9, "fitness": "magnitude", "fitness_epochs": 1}


def problem(model: str = "mlp") -> ep.Problem:
    return ep.Problem(model, "digits", ep.Recipe(epochs=2, batch_size=50), widths=(40, 20), seed=2)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the populations that were trained fully."""
    found: list[int] = []

    def train(p: ep.Problem, masks: Sequence[ep.Mask], training: Training) -> list[FinalTraining]:
        found.append(len(masks))
        return train_together(p, masks, training)

    monkeypatch.setattr(final, "train_together", train)
    return found


def numbers(result: ep.Result) -> dict[str, Any]:
    """Returns all that the trainings of a result say, apart from the time."""
    return {
        role: (t.mask.hash, t.history, t.test_loss, t.test_accuracy, t.engines, {n: v.tolist() for n, v in t.state.items()})
        for role, t in result.trainings.items()
    }


@pytest.mark.parametrize("restart", [False, True])
def test_winner_and_controls_are_one_population_with_the_bits_of_each_alone(sizes: list[int], restart: bool) -> None:
    together = ep.k_starts(problem(), **SEARCH, engine="sparse", chunk_size=3, restart=restart)
    distinct = len({training.mask.hash for training in together.trainings.values()})
    assert distinct > 1
    assert sizes == [distinct]
    alone = ep.k_starts(problem(), **SEARCH, engine="sparse", chunk_size=1, restart=restart)
    assert sizes == [distinct] + [1] * distinct
    assert numbers(together) == numbers(alone)
    assert len({training.seconds for training in together.trainings.values()}) == 1  # they share the time


def test_a_chunk_is_the_most_that_is_trained_at_once(sizes: list[int]) -> None:
    result = ep.k_starts(problem(), **SEARCH, engine="sparse", chunk_size=2)
    assert len({training.mask.hash for training in result.trainings.values()}) == 3
    assert sizes == [2, 1]


@pytest.mark.parametrize(("engine", "model"), [("stacked", "mlp"), ("module", "mlp")])
def test_where_company_may_change_bits_they_are_trained_one_after_another(sizes: list[int], engine: str, model: str) -> None:
    ep.k_starts(problem(model), **SEARCH, engine=engine, chunk_size=3)
    assert set(sizes) == {1}


def test_under_a_schedule_they_are_trained_one_after_another(sizes: list[int]) -> None:
    ep.combine(problem(), **SEARCH, dissipate_epochs=1, engine="sparse", chunk_size=3)
    assert set(sizes) == {1}


def test_a_resumed_run_trains_those_that_are_missing(sizes: list[int], tmp_path: Path) -> None:
    options = {**SEARCH, "engine": "sparse", "chunk_size": 3, "out": tmp_path}
    whole = ep.k_starts(problem(), **options)
    trained = list(dict.fromkeys(training.mask.hash for training in whole.trainings.values()))
    kept = tmp_path / f"checkpoint/{trained[0]}.json"
    before = kept.stat().st_mtime_ns
    for path in (tmp_path / "result.json", *(tmp_path / f"checkpoint/{mask_hash}.json" for mask_hash in trained[1:])):
        path.unlink()
    sizes.clear()
    assert numbers(ep.k_starts(problem(), **options)) == numbers(whole)
    assert sizes == [len(trained) - 1]
    assert kept.stat().st_mtime_ns == before


def test_where_they_fail_together_they_are_trained_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def train(p: ep.Problem, masks: Sequence[ep.Mask], training: Training) -> list[FinalTraining]:
        sizes.append(len(masks))
        if len(masks) > 1:
            raise MemoryError
        return train_together(p, masks, training)

    expected = numbers(ep.k_starts(problem(), **SEARCH, engine="sparse", chunk_size=3))
    monkeypatch.setattr(final, "train_together", train)
    assert numbers(ep.k_starts(problem(), **SEARCH, engine="sparse", chunk_size=3)) == expected
    assert sizes == [3, 1, 1, 1]


@pytest.mark.process
def test_a_search_imports_no_library_that_it_does_not_use() -> None:
    heavy = ("torch._dynamo", "sklearn", "scipy", "statsmodels", "pandas", "matplotlib", "dask", "tyro")
    code = (
        "import sys, evoprune as ep\n"
        "problem = ep.Problem('mlp', 'digits', ep.Recipe(epochs=1), widths=(8,))\n"
        "ep.k_starts(problem, k=3, sparsity=0.5, fitness_epochs=1, engine='module')\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    code, output = python_anew("-c", code, deadline=60)
    assert code == 0, output
    assert output.strip().endswith("[]")
