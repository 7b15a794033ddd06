"""Records of generations."""

from dataclasses import replace

import pytest
from deap import tools

import evoprune as ep
from evoprune.search.generations import log_generation


def test_a_term_that_only_some_evaluations_have_is_taken_over_those(digits: ep.Problem) -> None:
    """Runs begun by an earlier version have measured terms that this one does not."""
    result = ep.k_starts(digits, k=3, sparsity=0.8, fitness_epochs=1, controls=False)
    first, *others = result.evaluations
    known = {e.mask: e for e in [replace(first, terms={**first.terms, "spread": 2.0}), *others]}
    logbook = tools.Logbook()
    log_generation(logbook, 0, result.population, result.mask, known, set(known))
    log_generation(logbook, 1, result.population[1:], result.mask, known, set())
    spread = logbook.chapters["spread"]
    assert [row["mean"] for row in spread] == pytest.approx([2.0, float("nan")], nan_ok=True)
