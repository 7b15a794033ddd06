"""Several objectives, and fitness of one's own."""

from pathlib import Path

import pytest
from support.comparing import assert_same
from support.evolution import SMALL, SPARSITY, Watch

import evoprune as ep
from evoprune.figures import runs as plot
from evoprune.runs.evaluations import read_evaluations


def test_several_objectives(digits: ep.Problem, tmp_path: Path) -> None:
    evolution = ep.Evolution(k=4, generations=3, mutation=("swap", "sparsity"), min_sparsity=0.6, max_sparsity=0.9)
    out = tmp_path / "run"
    found = ep.evolve(digits, evolution, sparsity=SPARSITY, fitness=("accuracy", "sparsity"), trained_bests=0, out=out)
    front = found.hall_of_fame
    assert len(front) > 1
    for a in front:
        assert a.fitness.values[1] == pytest.approx(a.sparsity)
        assert not any(b.fitness.dominates(a.fitness) for b in front)
    evaluated = [(e.validation_accuracy, e.terms["sparsity"]) for _, e in read_evaluations(out)]
    assert all(0.6 - 1e-3 <= sparsity <= 0.9 + 1e-3 for _, sparsity in evaluated)
    assert len({sparsity for _, sparsity in evaluated}) > 4
    best = {p for p in evaluated if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in evaluated)}
    assert {mask.fitness.values for mask in front} == best
    assert found.mask.fitness.values[0] == max(accuracy for accuracy, _ in best)
    assert "fronts" in plot.figures_of(out)


def test_magnitude_and_gradient_as_objectives_resume(digits: ep.Problem, tmp_path: Path) -> None:
    options = {"sparsity": SPARSITY, "fitness": ("magnitude", "gradient"), "trained_bests": 1}
    whole = ep.evolve(digits, SMALL, out=tmp_path / "whole", **options)
    with pytest.raises(RuntimeError, match="enough"):
        ep.evolve(digits, SMALL, callbacks=[Watch(2)], out=tmp_path / "run", **options)
    again = ep.evolve(digits, SMALL, out=tmp_path / "run", **options)
    assert_same(tmp_path / "whole", tmp_path / "run")
    assert [m.fitness.values for m in again.hall_of_fame] == [m.fitness.values for m in whole.hall_of_fame]


def test_combined_keeps_its_divisors(digits: ep.Problem, tmp_path: Path) -> None:
    options = {"sparsity": SPARSITY, "fitness": "combined", "trained_bests": 1}
    ep.evolve(digits, SMALL, out=tmp_path / "whole", **options)
    with pytest.raises(RuntimeError, match="enough"):
        ep.evolve(digits, SMALL, callbacks=[Watch(1)], out=tmp_path / "run", **options)
    ep.evolve(digits, SMALL, out=tmp_path / "run", **options)
    assert_same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_a_registered_fitness_of_accuracy_is_drawn(digits: ep.Problem, constant: str, tmp_path: Path) -> None:
    ep.register_fitness("mix", ["accuracy", "loss"])
    out = tmp_path / "run"
    ep.evolve(digits, ep.Evolution(k=2, generations=1), fitness=("mix", constant), trained_bests=0, out=out)
    assert "fronts" in plot.figures_of(out)
    assert len(plot.save_figures(out)) == len(plot.figures_of(out))
