"""Checks of an evolution's options."""

from __future__ import annotations

import math

from evoprune.errors import InputError, look_up
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.operators.crossover import CROSSOVERS
from evoprune.operators.mutation import GROW, MUTATIONS
from evoprune.operators.positions import SCOPES
from evoprune.options import check_sizes
from evoprune.search.evolution.options import ALGORITHMS, RANDOM, SELECTIONS, Evolution
from evoprune.system.memory import require_memory


def require(evolution: Evolution, sparsity: float, n: int, objectives: int) -> None:
    """Checks the options.

    Args:
        evolution: The options.
        sparsity: The final sparsity.
        n: Number of prunable weights.
        objectives: Number of objectives.

    Raises:
        InputError: A value out of range, an unknown name, or values that do not go together.
    """
    check_sizes(evolution)
    _require_names(evolution)
    _require_numbers(evolution)
    _require_starts(evolution)
    _require_steady(evolution)
    _require_rising(evolution, sparsity, n)
    _require_inheritance(evolution, objectives)
    _require_selection(evolution, objectives)
    _require_bounds(evolution, sparsity, n)
    largest = max(evolution.first, evolution.k + evolution.children)
    require_memory(largest * n, f"a generation of {largest:,} masks")


def _require_names(evolution: Evolution) -> None:
    if not evolution.mutation or not evolution.start:
        raise InputError("no mutation or no start is given; expected at least one name of each, such as informed, random.")
    for mutation in evolution.mutation:
        MUTATIONS.find(mutation)
    CROSSOVERS.find(evolution.crossover)
    for name, value, known in (
        ("algorithm", evolution.algorithm, ALGORITHMS), ("grow", evolution.grow, GROW), ("scope", evolution.scope, SCOPES),
        ("selection", evolution.selection or "best", SELECTIONS),
    ):  # fmt: skip
        look_up(name, value, dict.fromkeys(known, True))


def _require_numbers(evolution: Evolution) -> None:
    for name, least in (
        ("k", 1),
        ("generations", 0),
        ("tournament_size", 1),
        ("hall_of_fame", 1),
        ("elites", 0),
    ):
        require_count(name, getattr(evolution, name), least)
    for name in ("offspring", "starts", "evaluations", "patience", "slots", "sparsify"):
        if getattr(evolution, name) is not None:
            require_count(name, getattr(evolution, name), 1)
    if evolution.seconds is not None and not (isinstance(evolution.seconds, (int, float)) and evolution.seconds > 0):
        raise InputError(f"seconds are {evolution.seconds!r}; expected a number above 0.")
    for name in ("crossover_probability", "mutation_probability"):
        if not 0 <= getattr(evolution, name) <= 1:
            raise InputError(f"{name} is {getattr(evolution, name)}; expected a probability, from 0 to 1.")
    for name in ("fraction", "last_fraction"):
        if not 0 < getattr(evolution, name) <= 1:
            raise InputError(f"{name} is {getattr(evolution, name)}; expected a number above 0 and at most 1, such as 0.1.")
    if not 1 <= evolution.among < math.inf:
        raise InputError(f"among is {evolution.among}; expected a number of at least 1, such as 1.5.")


def _require_starts(evolution: Evolution) -> None:
    if evolution.elites > evolution.k:
        raise InputError(f"elites are {evolution.elites}, but k is {evolution.k}; expected at most k.")
    wrong = [start for start in evolution.start if not isinstance(start, (str, Mask))]
    if wrong:
        raise InputError(
            f"start has {wrong[0]!r}; expected names, paths and masks (ep.Mask; of arrays of zeros and ones: "
            f"ep.Mask.from_layers)."
        )
    if evolution.starts is not None and RANDOM not in evolution.names:
        raise InputError(
            f"starts are {evolution.starts}, but start is {evolution.start}; expected random among them, to fill up."
        )
    least = evolution.first + (0 if evolution.first_sparsity is None else evolution.rising * evolution.children)
    if evolution.evaluations is not None and evolution.evaluations < least:
        until = "in the first generation" if evolution.first_sparsity is None else "until sparsity has risen"
        raise InputError(f"evaluations are {evolution.evaluations}, but there are {least} {until}; expected at least as many.")


def _require_steady(evolution: Evolution) -> None:
    if evolution.steady_state and (evolution.algorithm != "mu+lambda" or evolution.first_sparsity is not None):
        raise InputError("steady_state is given; expected the algorithm mu+lambda, and no first_sparsity.")
    if evolution.steady_state and evolution.selection == "tournament":
        raise InputError(
            "selection is tournament with steady_state; expected best or nsga2: a tournament draws masks several times, so "
            "the population would shrink with every arrival."
        )
    if evolution.slots is not None and not evolution.steady_state:
        raise InputError(f"slots are {evolution.slots}; expected steady_state with them.")


def _require_rising(evolution: Evolution, sparsity: float, n: int) -> None:
    if evolution.first_sparsity is None:
        return
    if survivors_of(evolution.first_sparsity, n) < survivors_of(sparsity, n):
        raise InputError(f"first_sparsity is {evolution.first_sparsity}; expected at most the sparsity, {sparsity}.")
    if "sparsity" in evolution.mutation:
        raise InputError("first_sparsity is given, and the mutation sparsity; expected one of them.")
    if evolution.inherit and evolution.generations < evolution.rising:
        raise InputError(
            f"sparsity rises over {evolution.rising} generations (sparsify), but the recipe has only "
            f"{evolution.generations + 1} pieces of fitness_epochs, and {evolution.generations} generations after the first; "
            f"raise epochs, or lower either."
        )
    if evolution.generations < evolution.rising:
        raise InputError(f"generations are {evolution.generations}; expected at least sparsify, {evolution.rising}.")


def _require_inheritance(evolution: Evolution, objectives: int) -> None:
    if not evolution.inherit:
        return
    refused = {
        "algorithm generational": evolution.algorithm != "mu+lambda",
        "steady_state": evolution.steady_state,
        "patience": evolution.patience is not None,
        "the mutation sparsity": "sparsity" in evolution.mutation,
        "several objectives": objectives > 1,
    }
    if given := [name for name, is_given in refused.items() if is_given]:
        raise InputError(f"inherit is given with {', '.join(given)}; expected mu+lambda with one fitness, and none of these.")
    if evolution.children < evolution.k:
        raise InputError(
            f"offspring are {evolution.children} and k is {evolution.k}, with inherit; expected at least k: every parent has a "
            f"child that continues from it."
        )


def _require_selection(evolution: Evolution, objectives: int) -> None:
    if evolution.algorithm != "generational":
        if objectives > 1 and evolution.selection not in (None, "nsga2"):
            raise InputError(f"selection is {evolution.selection!r} with {objectives} objectives; expected nsga2.")
        return
    if objectives > 1:
        raise InputError(f"algorithm is generational with {objectives} objectives; expected mu+lambda.")
    if evolution.selection not in (None, "tournament"):
        raise InputError(f"selection is {evolution.selection!r} and algorithm generational; expected tournament, for parents.")
    if evolution.children + evolution.elites < evolution.k:
        raise InputError(
            f"offspring are {evolution.children} and elites {evolution.elites}; expected together at least k, {evolution.k}."
        )


def _require_bounds(evolution: Evolution, sparsity: float, n: int) -> None:
    if "sparsity" not in evolution.mutation and (evolution.min_sparsity is not None or evolution.max_sparsity is not None):
        raise InputError(f"sparsity has bounds, but mutation is {evolution.mutation}; expected sparsity among them.")
    low, high = evolution.bounds(sparsity)
    if not survivors_of(high, n) <= survivors_of(sparsity, n) <= survivors_of(low, n):
        raise InputError(f"sparsity is {sparsity}, to vary from {low} to {high}; expected it between the two.")


def require_count(name: str, value: object, least: int) -> None:
    """Refuses a value that is not an integer of at least so many."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}; expected an integer of at least {least}.")
