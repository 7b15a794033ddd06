"""Evolution: what it keeps, records and resumes."""

import math
from pathlib import Path

import numpy as np
import pytest
from support.comparing import assert_same
from support.evolution import RISING, SMALL, SPARSITY, Watch
from support.tables import read_table

import evoprune as ep
from evoprune.evaluation.evidence import evidence_cost
from evoprune.figures import runs as plot
from evoprune.operators import CROSSOVERS, MUTATIONS
from evoprune.runs.evaluations import read_evaluations


def test_it_improves_and_keeps_the_survivors(result: ep.Result, digits: ep.Problem, watch: Watch) -> None:
    best = result.logbook.select("best")
    assert best == sorted(best)
    assert best[-1] > best[0]
    assert result.mask.fitness.values[0] == best[-1] == max(mask.fitness.values[0] for mask in result.hall_of_fame)
    assert result.logbook.select("gen") == watch.seen == [0, 1, 2, 3, 4]
    kept = round((1 - SPARSITY) * digits.prunable_count)
    assert {mask.survivors for population in watch.populations for mask in population} == {kept}
    assert all(len(population) == 3 for population in watch.populations)
    assert ep.Evaluator(digits, fitness="loss", epochs=1)(result.mask) == pytest.approx(result.mask.fitness.values, rel=1e-3)


def test_a_mask_is_evaluated_once(result: ep.Result, folder: Path) -> None:
    rows = read_evaluations(folder)
    assert len({e.mask for _, e in rows}) == len(rows) == result.summary["evaluations"]
    assert [sum(gen == g for gen, _ in rows) for g in range(5)] == result.logbook.select("nevals")


def test_the_records_say_what_the_population_is(result: ep.Result, folder: Path) -> None:
    generations = read_table(folder / "generations.csv")
    by_hash = {e.mask: e for _, e in read_evaluations(folder)}
    evaluations = [by_hash[mask.hash] for mask in result.population]
    last = generations[-1]
    for term in ("magnitude", "gradient", "loss", "sparsity"):
        values = [e.terms[term] for e in evaluations]
        assert last[f"{term}_mean"] == pytest.approx(np.mean(values), rel=1e-12)
        assert (last[f"{term}_min"], last[f"{term}_max"]) == (min(values), max(values))
    assert last["accuracy_max"] == max(e.validation_accuracy for e in evaluations)
    ious = [a.iou(b) for i, a in enumerate(result.population) for b in result.population[:i]]
    assert last["diversity"] == pytest.approx(1 - np.mean(ious))
    layers = [row for row in read_table(folder / "layers.csv") if row["gen"] == 4]
    for row in layers:
        counts = [int(mask.layers[row["layer"]].sum()) for mask in result.population]
        assert (row["min"], row["mean"], row["max"]) == (min(counts), pytest.approx(np.mean(counts)), max(counts))
        assert row["best"] == result.mask.layers[row["layer"]].sum()
        assert row["size"] == result.mask.layers[row["layer"]].size


def test_costs_by_hand(result: ep.Result, digits: ep.Problem) -> None:
    n, train = result.summary["evaluations"], len(digits.data.train[0])
    each = 3 * result.mask.survivors * train
    assert result.summary["search_epochs"] == pytest.approx(n * (1 + 500 / train))
    assert result.summary["total_epochs"] == pytest.approx(n * (1 + 500 / train) + 2)
    assert evidence_cost(digits) == pytest.approx(3 * digits.prunable_count * 500)
    assert result.summary["multiply_adds"] == pytest.approx(n * (each + 3 * digits.prunable_count * 500) + 2 * each)


def test_the_fittest_of_the_first_generation_is_the_control(result: ep.Result) -> None:
    assert set(result.summary["controls"]) == {"start"}
    assert result.bests[0]["gen"] == 0
    assert result.bests[0]["mask"] == result.summary["controls"]["start"]["mask"]
    assert result.bests[-1]["mask"] == result.mask.hash
    assert len(result.bests) == 2
    assert result.bests[-1]["validation_accuracy"] == result.summary["validation_accuracy"]


def test_recorded_or_not_is_the_same(result: ep.Result, digits: ep.Problem) -> None:
    again = ep.evolve(digits, SMALL, sparsity=SPARSITY, trained_bests=2)
    assert [mask.hash for mask in again.population] == [mask.hash for mask in result.population]
    assert {**again.summary, "seconds": 0} == {**result.summary, "seconds": 0}
    other = ep.evolve(digits, SMALL, sparsity=SPARSITY, trained_bests=0, seed=1)
    assert other.mask != result.mask


@pytest.mark.parametrize("gen", [0, 2, 4])
def test_an_error_of_a_callback_loses_nothing(
    result: ep.Result, folder: Path, digits: ep.Problem, tmp_path: Path, gen: int
) -> None:
    arguments = {"sparsity": SPARSITY, "trained_bests": 2, "out": tmp_path / "run"}
    with pytest.raises(RuntimeError, match="enough"):
        ep.evolve(digits, SMALL, callbacks=[Watch(gen)], **arguments)
    after = Watch()
    ep.evolve(digits, SMALL, callbacks=[after], **arguments)
    assert after.seen == list(range(gen + 1, 5))
    assert_same(folder, tmp_path / "run")


def stop_after(digits: ep.Problem, out: Path, gen: int) -> None:
    with pytest.raises(RuntimeError, match="enough"):
        ep.evolve(digits, SMALL, sparsity=SPARSITY, trained_bests=2, callbacks=[Watch(gen)], out=out)


def test_a_damaged_checkpoint_costs_nothing_but_time(
    result: ep.Result, folder: Path, digits: ep.Problem, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stop_after(digits, out, 3)
    (out / "checkpoint" / "generation-000004.safetensors").write_bytes(b"damaged")
    before = len(read_evaluations(out))
    watch = Watch()
    with pytest.warns(UserWarning, match=r"generation-000004\.json is damaged"):
        ep.evolve(digits, SMALL, sparsity=SPARSITY, trained_bests=2, callbacks=[watch], out=out)
    assert watch.seen == [3, 4]
    assert before < len(read_evaluations(out)) == len(read_evaluations(folder))
    assert_same(folder, out)


def test_without_any_checkpoint_the_evaluations_are_used(
    result: ep.Result, folder: Path, digits: ep.Problem, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stop_after(digits, out, 3)
    for path in (out / "checkpoint").glob("generation-*"):
        path.unlink()
    ep.evolve(digits, SMALL, sparsity=SPARSITY, trained_bests=2, out=out)
    assert_same(folder, out)


def test_evidence_that_is_gone_is_taken_again(result: ep.Result, folder: Path, digits: ep.Problem, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stop_after(digits, out, 3)
    for path in (out / "checkpoint").glob("generation-000004*"):
        path.unlink()
    lost = sorted((out / "checkpoint").glob("evidence-000003/*"))
    lost[0].unlink()
    ep.evolve(digits, SMALL, sparsity=SPARSITY, trained_bests=2, out=out)
    assert_same(folder, out)


def test_a_finished_run_comes_back(result: ep.Result, folder: Path, digits: ep.Problem) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    watch = Watch()
    again = ep.evolve(digits, SMALL, sparsity=SPARSITY, trained_bests=2, callbacks=[watch], out=folder)
    assert watch.seen == []
    assert again.summary == result.summary
    assert [mask.hash for mask in again.hall_of_fame] == [mask.hash for mask in result.hall_of_fame]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_every_figure_is_drawn(result: ep.Result, folder: Path) -> None:
    names = plot.figures_of(folder)
    drawn = {"fitness", "finals", "diversity", "survivors", "training", "layers", "lineage", "inputs", "confusion"}
    assert drawn == set(names)
    for path in plot.save_figures(folder):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_sparsity_rises(digits: ep.Problem, tmp_path: Path) -> None:
    watch = Watch()
    options = {"sparsity": 0.9, "trained_bests": 2}
    whole = ep.evolve(digits, RISING, callbacks=[watch], out=tmp_path / "whole", **options)
    n = digits.prunable_count
    counts = [{mask.survivors for mask in population} for population in watch.populations]
    middle = round(round(0.5 * n) * (round(0.1 * n) / round(0.5 * n)) ** 0.5)
    assert counts == [{round(0.5 * n)}, {middle}, *[{round(0.1 * n)}] * 3]
    assert {mask.survivors for mask in whole.hall_of_fame} == {round(0.1 * n)}
    assert whole.bests[0]["gen"] == 2
    for gen in (0, 1, 2):
        with pytest.raises(RuntimeError, match="enough"):
            ep.evolve(digits, RISING, callbacks=[Watch(gen)], out=tmp_path / f"run{gen}", **options)
        ep.evolve(digits, RISING, out=tmp_path / f"run{gen}", **options)
        assert_same(tmp_path / "whole", tmp_path / f"run{gen}")


# every operator under both algorithms, in turn
SERVED = [
    (mutation, crossover, ("mu+lambda", "generational")[(i + j) % 2])
    for i, mutation in enumerate(sorted(MUTATIONS))
    for j, crossover in enumerate(sorted(CROSSOVERS))
]


@pytest.mark.sampled(9)
@pytest.mark.parametrize(("mutation", "crossover", "algorithm"), SERVED)
def test_every_operator_serves_both_algorithms(digits: ep.Problem, mutation: str, crossover: str, algorithm: str) -> None:
    evolution = ep.Evolution(
        k=2, generations=2, algorithm=algorithm, mutation=(mutation,), crossover=crossover, crossover_probability=0.5
    )
    found = ep.evolve(digits, evolution, sparsity=SPARSITY, trained_bests=0, controls=False)
    assert all(np.isfinite(mask.fitness.values[0]) for mask in found.population)
    assert found.summary["controls"] == {}


def test_dead_duplicates_are_not_evaluated_again(digits: ep.Problem) -> None:
    """Two of twenty weights are kept: 190 masks are possible, and children return to what was there before."""
    x, y = digits.data.train
    x = x.flatten(1)[:, 26:28]
    data = ep.Data(train=(x[:40], y[:40]), validation=(x[40:60], y[40:60]), test=(x[60:80], y[60:80]))
    problem = ep.Problem(model=_tiny, data=data, recipe=ep.Recipe(epochs=1), seed=0)
    evolution = ep.Evolution(k=2, generations=12, scope="global", starts=2)
    found = ep.evolve(problem, evolution, sparsity=0.9, layer_densities="uniform", trained_bests=0)
    assert problem.prunable_count == 20
    assert found.summary["survivors"] == 2
    assert found.summary["evaluations"] == sum(found.logbook.select("nevals")) <= 190
    assert min(found.logbook.select("nevals")) < 4


def _tiny() -> object:
    from torch import nn

    return nn.Linear(2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fitness": ()}, "fitness is"),
        ({"fitness": ("loss", "loss")}, "fitness is"),
        ({"fitness": "lost"}, "unknown fitness 'lost'"),
        ({"fitness": ("accuracy", "sparsity")}, "sparsity is an objective, but mutation is"),
        ({"trained_bests": -1}, "trained_bests is -1"),
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"fitness_epochs": 4}, "fitness_epochs is 4"),
    ],
)
def test_bad_values_are_refused(digits: ep.Problem, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        ep.evolve(digits, SMALL, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_accuracy_of_an_autoencoder_is_refused() -> None:
    problem = ep.Problem(model="autoencoder", widths=(8, 4), recipe=ep.Recipe(epochs=2))
    with pytest.raises(ep.InputError, match="accuracy is defined for classification only; take loss"):
        ep.evolve(problem, SMALL, fitness=("accuracy", "magnitude"))
    found = ep.evolve(problem, ep.Evolution(k=2, generations=1), trained_bests=1)
    assert math.isnan(found.logbook.chapters["accuracy"][-1]["mean"])
    assert found.bests[0]["validation_accuracy"] is None


def test_all_failed_is_an_error(tmp_path: Path) -> None:
    problem = ep.Problem(model="mlp", recipe=ep.Recipe(epochs=1, lr=1e9))
    with pytest.raises(ep.RunError, match="all 4 evaluations failed"):
        ep.evolve(problem, ep.Evolution(k=2), out=tmp_path / "run")


def test_a_tie_is_no_progress(digits: ep.Problem, constant: str) -> None:
    evolution = ep.Evolution(k=2, patience=2, mutation=("swap",))
    found = ep.evolve(digits, evolution, sparsity=SPARSITY, fitness=constant, trained_bests=3)
    assert found.summary["stopped_by"] == "no fitter mask for 2 generations"
    assert found.summary["generations"] == 2
    first = ep.make_toolbox(digits, sparsity=SPARSITY, fitness_epochs=1).population(n=1)
    assert [found.mask.hash] == [row["mask"] for row in found.bests] == [mask.hash for mask in first]


def test_force_leaves_nothing_of_another_run(digits: ep.Problem, tmp_path: Path) -> None:
    evolution = ep.Evolution(k=2, generations=1, mutation=("swap", "sparsity"))
    ep.evolve(digits, evolution, fitness=("accuracy", "sparsity"), trained_bests=2, out=tmp_path)
    plot.save_figures(tmp_path)
    (tmp_path / "mine.png").write_bytes(b"")
    ep.k_starts(digits, k=2, out=tmp_path, force=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert not names & {"fronts.png", "finals.png", "bests.csv", "hall_of_fame"}
    assert "mine.png" in names


def test_tensorboard_reads_what_was_written(digits: ep.Problem, tmp_path: Path) -> None:
    event_file_loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    arguments = {"sparsity": SPARSITY, "trained_bests": 0, "out": tmp_path / "run"}
    evolution, folder = ep.Evolution(k=2, generations=2), tmp_path / "board"
    with pytest.raises(RuntimeError, match="enough"):
        ep.evolve(digits, evolution, callbacks=[Watch(1)], **arguments)  # which the board did not see
    found = ep.evolve(digits, evolution, callbacks=[ep.TensorBoard(folder)], **arguments)
    events = event_file_loader.EventAccumulator(str(folder))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("fitness/mean")] == [
        (gen, pytest.approx(value)) for gen, value in enumerate(found.logbook.select("mean"))
    ]
    assert [e.value for e in events.Scalars("loss/max")] == pytest.approx(found.logbook.chapters["loss"].select("max"))
    assert len(events.Scalars(f"layers/{next(iter(digits.shapes))}")) == 3
