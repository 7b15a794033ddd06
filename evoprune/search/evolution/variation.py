"""Variation: the children of a generation, by DEAP's algorithms."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from deap import algorithms, base, tools

from evoprune import seeds
from evoprune.masks.mask import Mask
from evoprune.operators.binding import bind_crossover, bind_mutation
from evoprune.operators.crossover import CROSSOVERS
from evoprune.operators.mutation import MUTATIONS, shrink
from evoprune.search.evolution.lineage import CONTINUED, Traced, note
from evoprune.search.evolution.options import Evolution
from evoprune.search.evolution.state import State


def register_operators(
    toolbox: base.Toolbox, evolution: Evolution, sparsity: float, objectives: int, rng: np.random.Generator
) -> None:
    """Registers ``select``, ``mate`` and ``mutate``, with the fraction of the first generation.

    Args:
        toolbox: The toolbox.
        evolution: The options.
        sparsity: The final sparsity.
        objectives: Number of objectives.
        rng: Source of the draws of ``mate`` and ``mutate``; DEAP's ``select`` draws from the global ``random``.
    """
    usual = "best" if evolution.algorithm == "mu+lambda" else "tournament"
    selection = evolution.selection or (usual if objectives == 1 else "nsga2")
    if selection == "tournament":
        toolbox.register("select", tools.selTournament, tournsize=evolution.tournament_size)
    else:
        toolbox.register("select", {"best": tools.selBest, "nsga2": tools.selNSGA2}[selection])
    low, high = evolution.bounds(sparsity)
    # silent: a child that equals a mask of an earlier generation is not evaluated again, and gets no evidence
    options = {
        "scope": evolution.scope, "grow": evolution.grow, "among": evolution.among, "missing": "silent",
        "low": low, "high": high,
    }  # fmt: skip
    mate = Traced(CROSSOVERS.name_of(evolution.crossover), bind_crossover(evolution.crossover, options))
    toolbox.register("mate", mate, rng=rng)
    mutations = [Traced(MUTATIONS.name_of(mutation), bind_mutation(mutation, options)) for mutation in evolution.mutation]
    toolbox.register("mutate", mutate, mutations=mutations, fraction=evolution.fraction, rng=rng)


def mutate(
    mask: Mask, *, mutations: Sequence[Callable[..., tuple[Mask]]], fraction: float, rng: np.random.Generator
) -> tuple[Mask]:
    """Applies one of several mutations, drawn at random."""
    return mutations[int(rng.integers(len(mutations)))](mask, fraction=fraction, rng=rng)


def vary(state: State, toolbox: base.Toolbox, evolution: Evolution, survivors: int | None = None) -> list[Mask]:
    """Returns the children of a generation, by DEAP's ``varOr`` (mu plus lambda) or ``varAnd`` (generational).

    Args:
        state: The state, of which the streams are used up.
        toolbox: The toolbox.
        evolution: The options.
        survivors: How many weights the children keep, while sparsity rises: then all are mutants, by
            :func:`evoprune.operators.mutation.shrink`. None: as many as their parents.
    """
    if evolution.inherit:
        return _raise(state, toolbox, evolution, survivors)
    return _breed(state, toolbox, evolution, survivors, evolution.children)


def _raise(state: State, toolbox: base.Toolbox, evolution: Evolution, survivors: int | None) -> list[Mask]:
    """Returns children that continue from their parents: for each parent one that is not varied, and others that are bred."""
    children: list[Mask] = [toolbox.clone(parent) for parent in state.population]
    for child in children:
        note(child, CONTINUED, child.key)
        if survivors is not None:
            Traced("shrink", shrink)(child, rng=state.variation, survivors=survivors, missing="silent")
    rest = evolution.children - len(children)
    children += _breed(state, toolbox, evolution, survivors, rest) if rest > 0 else []
    for child in children:
        del child.fitness.values
        child.parent = "" if child.snapshot is None else child.snapshot.digest
    return children


def _inheriting(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Returns an operator whose children have their parents' snapshots, also where it returns new masks."""

    def vary(*masks: Mask, **options: Any) -> Any:
        snapshots = [mask.snapshot for mask in masks]
        children = operator(*masks, **options)
        for child, snapshot in zip(children, snapshots, strict=True):
            child.snapshot = snapshot
        return children

    return vary


def _let_inherit(toolbox: base.Toolbox, evolution: Evolution) -> None:
    if evolution.inherit:
        for name in ("mate", "mutate"):
            toolbox.decorate(name, _inheriting)


def _breed(state: State, toolbox: base.Toolbox, evolution: Evolution, survivors: int | None, count: int) -> list[Mask]:
    bound = copy.copy(toolbox)
    if survivors is not None:
        more = {"fraction": evolution.fraction_at(state.gen), "grow": evolution.grow} if evolution.inherit else {}
        options = {"survivors": survivors, "among": evolution.among, "missing": "silent", **more}
        bound.register("mutate", Traced("shrink", shrink), rng=state.variation, **options)
        _let_inherit(bound, evolution)
        with seeds.global_random(state.selection):
            return list(algorithms.varOr(state.population, bound, count, 0.0, 1.0))
    bound.register("mate", toolbox.mate, rng=state.variation)
    bound.register("mutate", toolbox.mutate, rng=state.variation, fraction=evolution.fraction_at(state.gen))
    _let_inherit(bound, evolution)
    population = state.population
    pairs = evolution.crossover_probability if len(population) > 1 else 0.0
    with seeds.global_random(state.selection):
        if evolution.algorithm == "mu+lambda":
            children = algorithms.varOr(population, bound, count, pairs, 1 - pairs)
        else:
            parents = toolbox.select(population, count)
            children = algorithms.varAnd(parents, bound, pairs, evolution.mutation_probability)
    return list(children)
