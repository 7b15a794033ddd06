"""Survival: the population that remains, the hall of fame, and the reasons to stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from deap import base, tools

from evoprune import seeds
from evoprune.evaluation.terms import FAILED
from evoprune.masks.mask import Mask, distinct
from evoprune.search.evolution.options import Evolution
from evoprune.search.evolution.state import State


def make_hall_of_fame(evolution: Evolution, objectives: int) -> tools.HallOfFame:
    """Returns an empty hall of fame; of several objectives a Pareto front."""
    return tools.HallOfFame(evolution.hall_of_fame) if objectives == 1 else tools.ParetoFront()


def replace(state: State, children: Sequence[Mask], toolbox: base.Toolbox, evolution: Evolution) -> list[Mask]:
    """Returns the population that survives, out of distinct masks, none that failed as long as there are others.

    A tournament may draw a mask several times, as DEAP's does.

    Args:
        state: The state, with the parents; its stream of selection is used up.
        children: The children, with their fitness.
        toolbox: The toolbox.
        evolution: The options.
    """
    if evolution.algorithm == "generational":
        elites = tools.selBest(state.population, evolution.elites)
        return _usable(distinct([*elites, *tools.selBest(children, len(children))]))[: evolution.k]
    # who inherited weights has trained further than its parents
    pool = _usable(distinct(children if evolution.inherit else [*state.population, *children]))
    with seeds.global_random(state.selection):
        return list(toolbox.select(pool, min(evolution.k, len(pool))))


def improve(state: State, children: Sequence[Mask], objectives: int, anew: bool = False) -> None:
    """Enters children in the hall of fame, and the fittest of them among the bests if it is fitter than any before.

    Args:
        state: The state, which is changed.
        children: The children, with their fitness; those that failed do not count.
        objectives: Number of objectives; with several, a change of the Pareto front is an improvement, too.
        anew: The fittest enters whatever came before: it has trained further.
    """
    front = {mask.fitness.values for mask in state.hall_of_fame}
    usable = [child for child in children if child.fitness.values[0] != FAILED]
    state.hall_of_fame.update(usable)
    fittest = max(usable, key=lambda mask: mask.fitness, default=None)
    if fittest is not None and (anew or not state.bests or fittest.fitness > state.bests[-1][1].fitness):
        if state.bests and state.bests[-1][0] == state.gen:
            state.bests.pop()  # one a generation
        state.bests.append((state.gen, copy.deepcopy(fittest)))
        state.improved = state.gen
    if objectives > 1 and {mask.fitness.values for mask in state.hall_of_fame} != front:
        state.improved = state.gen


def reason_to_stop(state: State, evolution: Evolution) -> str:
    """Returns why no further generation is made; empty where one is, as always while sparsity rises."""
    if evolution.first_sparsity is not None and state.gen <= evolution.rising:
        return ""
    if state.exhausted and not state.pending:
        return "no new mask was found"
    if state.gen > evolution.generations:
        return f"{evolution.generations} generations"
    evaluations = sum(record["nevals"] for record in state.logbook)
    if evolution.evaluations is not None and state.gen and evaluations + evolution.children > evolution.evaluations:
        return f"{evaluations} evaluations"
    if evolution.seconds is not None and state.seconds >= evolution.seconds:
        return f"{state.seconds:.0f} seconds"
    if evolution.patience is not None and state.gen and state.gen - 1 - state.improved >= evolution.patience:
        return f"no fitter mask for {evolution.patience} generations"
    return ""


def _usable(masks: Sequence[Mask]) -> list[Mask]:
    usable = [mask for mask in masks if all(math.isfinite(value) for value in mask.fitness.values)]
    return usable or list(masks)
