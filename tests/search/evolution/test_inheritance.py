"""Children that continue training from their parents' weights."""

import math
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing import assert_same
from support.tables import read_table

import evoprune as ep
from evoprune.cli.estimate import estimate
from evoprune.evaluation import brief
from evoprune.evaluation.evaluation import FAILURE
from evoprune.search.evolution.cost import cost_of
from evoprune.search.evolution.evolve import Evolve, EvolveOptions
from evoprune.search.evolution.state import State
from evoprune.training.cost import multiply_adds
from evoprune.training.final import Training, train_fully
from evoprune.workers.wire import pack_masks, work

EPOCHS, SPARSITY = 6, 0.9
INHERIT = ep.Evolution(k=2, offspring=4, inherit=True, first_sparsity=0.5, drop="magnitude", fraction=0.1, last_fraction=0.02)


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem("mlp", "digits", ep.Recipe(epochs=EPOCHS), widths=(24, 16))


class Watch:
    """Keeps each generation, and fails after one if asked to."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.fail_after, self.populations = fail_after, []

    def on_generation(self, state: State) -> None:
        self.populations.append(list(state.population))
        if state.gen - 1 == self.fail_after:
            raise RuntimeError("enough")


def evolve(problem: ep.Problem, evolution: ep.Evolution = INHERIT, **options: Any) -> ep.Result:
    return ep.evolve(problem, evolution, **{"sparsity": SPARSITY, "fitness_epochs": 1, **options})


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inherit") / "run"


@pytest.fixture(scope="module")
def result(problem: ep.Problem, folder: Path, watch: Watch) -> ep.Result:
    return evolve(problem, callbacks=[watch], out=folder)


def test_one_that_is_never_varied_is_a_plain_training(problem: ep.Problem, engine: str) -> None:
    lone = ep.Evolution(k=1, offspring=1, inherit=True, mutation=("swap",))  # which needs no evidence
    result = evolve(problem, lone, engine=engine)
    training = train_fully(problem, ep.Mask(result.mask.bits, problem.shapes), Training(engine, result_seed(problem)))
    assert result.trainings["winner"].history == training.history
    state = result.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in training.state.items())
    assert result.summary["test_loss"] == training.test_loss
    assert result.summary["multiply_adds"] == pytest.approx(EPOCHS * multiply_adds(problem, result.mask), rel=1e-12)
    assert result.summary["evaluations"] == result.summary["total_epochs"] == EPOCHS


def result_seed(problem: ep.Problem) -> int:
    return ep.seeds.integer(problem.seed, "order")


def test_it_trains_through_the_recipe_once(result: ep.Result, problem: ep.Problem, watch: Watch) -> None:
    assert result.summary["generations"] == EPOCHS - 1
    n = problem.prunable_count
    first, last = round(0.5 * n), round((1 - SPARSITY) * n)
    ratio = last / first
    rising = EPOCHS - 1 >> 1
    expected = [round(first * ratio ** min(1, gen / rising)) for gen in range(EPOCHS)]
    assert [{mask.survivors for mask in population} for population in watch.populations] == [{count} for count in expected]
    for gen, population in enumerate(watch.populations):
        for mask in population:
            assert mask.snapshot is not None
            assert (mask.snapshot.epochs, mask.snapshot.mask) == (gen + 1, mask.hash)
            assert [row["epoch"] for row in mask.snapshot.history] == list(range(1, gen + 2))
            assert bool(mask.parent) == (gen > 0)
    parents = [{mask.snapshot.digest for mask in population if mask.snapshot} for population in watch.populations]
    for gen, population in enumerate(watch.populations[1:]):
        assert {mask.parent for mask in population} <= parents[gen]


def test_the_winner_is_the_fittest_of_the_last_generation_and_fully_trained(
    result: ep.Result, folder: Path, watch: Watch
) -> None:
    last = max(watch.populations[-1], key=lambda mask: mask.fitness)
    assert result.mask == last
    assert result.summary["validation_loss"] == -last.fitness.values[0]
    rows = [row for row in read_table(folder / "history.csv") if row["role"] == "winner"]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert rows[-1]["survivors"] == result.mask.survivors
    weights = result.model.state_dict()
    for name, layer in result.mask.layers.items():
        assert not weights[name][torch.from_numpy(~layer)].any()
    assert not (folder / "bests.csv").exists() or not read_table(folder / "bests.csv")


def test_the_cost_is_that_of_all_children(result: ep.Result, problem: ep.Problem, folder: Path) -> None:
    rows = read_table(folder / "evaluations.csv")
    assert len(rows) == len({row["mask"] for row in rows}) == result.summary["evaluations"] == 4 * EPOCHS
    assert result.summary["multiply_adds"] == pytest.approx(math.fsum(row["multiply_adds"] for row in rows), rel=1e-12)
    dense = multiply_adds(problem, ep.Mask(np.ones(problem.prunable_count, bool), problem.shapes))
    planned = cost_of(problem, INHERIT, 1, SPARSITY)(EPOCHS)
    assert result.summary["multiply_adds"] / dense == pytest.approx(planned, rel=0.01)
    assert cost_of(problem, INHERIT, 2, SPARSITY)(1) == math.inf


def test_a_recipe_that_is_no_multiple_is_trained_to_its_end(problem: ep.Problem) -> None:
    result = evolve(problem, ep.Evolution(k=1, offspring=2, inherit=True), fitness_epochs=4)
    assert result.summary["generations"] == 0
    assert [row["epoch"] for row in result.trainings["winner"].history] == list(range(1, EPOCHS + 1))
    again = train_fully(problem, ep.Mask(result.mask.bits, problem.shapes), Training("module", result_seed(problem)))
    torch.testing.assert_close(result.summary["test_loss"], again.test_loss, rtol=1e-4, atol=0)
    dense = multiply_adds(problem, ep.Mask(np.ones(problem.prunable_count, bool), problem.shapes))
    planned = cost_of(problem, ep.Evolution(k=1, offspring=2, inherit=True), 4, SPARSITY)(EPOCHS)
    assert result.summary["multiply_adds"] / dense == pytest.approx(planned, rel=0.02)


def test_fewer_generations_leave_the_rest_to_the_winner(problem: ep.Problem) -> None:
    result = evolve(problem, ep.Evolution(k=1, offspring=2, generations=2, inherit=True, mutation=("swap",)), controls=False)
    assert result.summary["evaluations"] == 6
    assert len(result.trainings["winner"].history) == EPOCHS
    assert result.summary["total_epochs"] == 6 + EPOCHS - 3


def test_restart_trains_the_mask_from_w0(problem: ep.Problem, result: ep.Result) -> None:
    again = evolve(problem, restart=True, controls=False)
    assert again.mask == result.mask
    order = ep.seeds.integer(problem.seed, "restart")
    plain = train_fully(problem, ep.Mask(again.mask.bits, problem.shapes), Training(again.summary["engine"], order))
    assert again.summary["test_loss"] == plain.test_loss
    assert again.summary["multiply_adds"] > result.summary["multiply_adds"]


@pytest.mark.parametrize("gen", range(EPOCHS))
def test_interrupted_and_resumed(problem: ep.Problem, folder: Path, result: ep.Result, tmp_path: Path, gen: int) -> None:
    with pytest.raises(RuntimeError, match="enough"):
        evolve(problem, callbacks=[Watch(fail_after=gen)], out=tmp_path / "run")
    evolve(problem, out=tmp_path / "run")
    assert_same(folder, tmp_path / "run", without=["bests.csv"])


@pytest.fixture
def halfway(problem: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that ended when half of a generation was evaluated."""
    evaluate, calls = brief.evaluate_chunk, []

    def fail_in_time(job: Any, masks: Any) -> Any:
        calls.append(masks)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return evaluate(job, masks)

    with monkeypatch.context() as patch:
        for module in ("evoprune.evaluation.brief", "evoprune.workers.policy"):
            patch.setattr(f"{module}.evaluate_chunk", fail_in_time)
        with pytest.raises(KeyboardInterrupt):
            evolve(problem, out=tmp_path / "run", chunk_size=2)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def in_pairs(problem: ep.Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "run"
    evolve(problem, out=folder, chunk_size=2)
    return folder


def damages() -> Iterator[tuple[str, str, str]]:
    """Files of the generation under way, and of the states before it, each with the word that is said."""
    for kind in ("json", "safetensors"):
        yield "evidence-000004/*", kind, "its masks are evaluated again"
        yield "generation-000004", kind, "the one before is used"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "damaged"])
@pytest.mark.parametrize(("name", "kind", "word"), damages())
def test_a_state_that_is_lost_is_trained_again(
    problem: ep.Problem, in_pairs: Path, halfway: Path, name: str, kind: str, word: str, lost: bool
) -> None:
    files = list((halfway / "checkpoint").glob(f"{name}.{kind}"))
    assert files
    for file in files:
        if lost:
            file.unlink()
        else:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        evolve(problem, out=halfway, chunk_size=2)
    if not lost or kind == "safetensors":  # without its JSON file a checkpoint was never finished
        assert any(word in str(warning.message) for warning in said)
    assert_same(in_pairs, halfway, without=["bests.csv"])


def test_without_any_state_it_begins_again(problem: ep.Problem, in_pairs: Path, halfway: Path) -> None:
    shutil.rmtree(halfway / "checkpoint")
    evolve(problem, out=halfway, chunk_size=2)
    assert_same(in_pairs, halfway, without=["bests.csv"])


def test_who_fails_has_no_children(problem: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    status, seen = brief._status, []

    def fail_some(*arguments: Any) -> tuple[str, str]:
        seen.append(arguments)
        return (FAILURE, "on purpose") if len(seen) % 3 == 0 else status(*arguments)

    monkeypatch.setattr(brief, "_status", fail_some)
    watch = Watch()
    result = evolve(problem, callbacks=[watch])
    assert result.summary["failed"] == len(seen) // 3
    assert all(mask.snapshot is not None for population in watch.populations for mask in population)


def another(mask: ep.Mask, *, rng: np.random.Generator, fraction: float) -> tuple[ep.Mask]:
    """A mutation of the user's own that returns a new mask."""
    bits = mask.bits.copy()
    bits[[rng.choice(np.flatnonzero(bits)), rng.choice(np.flatnonzero(~bits))]] ^= True
    return (ep.Mask(bits, mask.shapes),)


def test_a_new_mask_inherits_too(problem: ep.Problem) -> None:
    watch = Watch()
    evolve(problem, ep.Evolution(k=4, offspring=8, inherit=True, mutation=(another,)), callbacks=[watch])  # type: ignore[arg-type]
    for gen, population in enumerate(watch.populations):
        assert [mask.snapshot.epochs for mask in population if mask.snapshot] == [gen + 1] * 4
        assert all([row["epoch"] for row in mask.snapshot.history][-1] == gen + 1 for mask in population if mask.snapshot)


def test_masks_of_a_result_are_plain(problem: ep.Problem, result: ep.Result) -> None:
    evaluator = ep.Evaluator(problem, fitness="loss", epochs=1)
    for mask in (result.mask, *result.population, *result.hall_of_fame):
        assert (mask.snapshot, mask.parent, mask.key) == (None, "", mask.hash)
        assert evaluator(mask) == evaluator(ep.Mask(mask.bits, mask.shapes))


def test_outside_of_its_evolution_a_mask_begins_at_w0(problem: ep.Problem, watch: Watch, result: ep.Result) -> None:
    seen = next(mask for mask in watch.populations[2] if mask.parent)
    plain = ep.Mask(seen.bits, seen.shapes)
    assert ep.Evaluator(problem, fitness="loss", epochs=1)(seen) == ep.Evaluator(problem, fitness="loss", epochs=1)(plain)
    assert pack_masks([seen]) == pack_masks([plain])


def test_snapshots_cross_the_wire_as_bytes(problem: ep.Problem, watch: Watch, result: ep.Result) -> None:
    seen = next(mask for mask in watch.populations[2] if mask.parent)
    job = ep.Evaluator(problem, fitness="loss", epochs=1, inherit=True).job
    packed = pack_masks([seen], inherit=True)
    assert all(type(part) is bytes for part in packed[0])
    (fields,) = work(job.key, job.payload, packed, None)
    assert type(fields["snapshot"]) is bytes


def test_whoever_tells_fitness_cannot_inherit(problem: ep.Problem) -> None:
    with pytest.raises(ep.InputError, match=r"expected ep\.evolve for it"):
        ep.Search(problem, "evolve", evolution=INHERIT, sparsity=SPARSITY, fitness_epochs=1)


def test_the_estimate_has_the_pieces_of_the_recipe(problem: ep.Problem) -> None:
    plain = EvolveOptions(evolution=INHERIT, sparsity=SPARSITY, fitness_epochs=2)
    found = estimate(problem, Evolve, plain, "sparse")
    assert found["evaluations"] == "12"  # three pieces of two epochs
    alike = replace(INHERIT, inherit=False, generations=2, sparsify=2)
    without = estimate(problem, Evolve, replace(plain, evolution=alike), "sparse")
    assert without["evaluations"] == "12"
    n, others = problem.prunable_count, 24 + 16 + 10
    each = 2 * 4 * (n / 2 + others) + n / 8  # weights and momentum of the densest masks, and their bits
    assert size_of(found["disk"]) - size_of(without["disk"]) == pytest.approx(3 * 4 * each, rel=0.02)


def size_of(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]


def test_the_planned_cost_of_a_restart(problem: ep.Problem) -> None:
    dense = multiply_adds(problem, ep.Mask(np.ones(problem.prunable_count, bool), problem.shapes))
    for options in ({"evolution": INHERIT, "fitness_epochs": 1}, {"evolution": ep.Evolution(k=1, generations=1)}):
        result = ep.evolve(problem, **options, sparsity=SPARSITY, restart=True, controls=False, trained_bests=0)
        planned = Evolve.cost(problem, EvolveOptions(**options, sparsity=SPARSITY, restart=True))(EPOCHS)
        assert result.summary["multiply_adds"] / dense == pytest.approx(planned, rel=0.01)


@pytest.mark.parametrize(
    ("given", "options", "named"),
    [
        ({"steady_state": True}, {}, "steady_state"),
        ({"algorithm": "generational"}, {}, "generational"),
        ({"patience": 3}, {}, "patience"),
        ({"mutation": ("sparsity",)}, {}, "the mutation sparsity"),
        ({}, {"fitness": ("loss", "accuracy")}, "several objectives"),
        ({"k": 3, "offspring": 2}, {}, "at least k"),
        ({}, {"fitness_epochs": 0, "fitness": "loss"}, "fitness_epochs 0"),
        ({"first_sparsity": 0.5, "sparsify": 6}, {}, "the recipe has only 6 pieces of fitness_epochs"),
        ({"generations": None}, {}, "generations is None"),
        ({}, {"fitness_epochs": "1"}, "fitness_epochs is '1'"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    problem: ep.Problem, given: dict[str, Any], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ep.InputError, match=named):
        evolve(problem, ep.Evolution(inherit=True, **given), **options)
