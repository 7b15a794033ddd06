"""Evolution: how a generation comes from the one before, and when to stop. DEAP's variation, selection and halls of fame."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of

ALGORITHMS = ("mu+lambda", "generational")
SELECTIONS = ("best", "tournament", "nsga2")
RANDOM = "random"


@dataclass(frozen=True)
class Evolution:
    """Options of an evolution."""

    k: int = 8
    """Masks that survive into the next generation (mu)."""
    offspring: int | None = None
    """Children in each generation (lambda). None: twice k, or k if the algorithm is generational."""
    generations: int = 20
    """Generations after the first; the search stops at the first of the limits that is reached."""
    evaluations: int | None = field(default=None, metadata={"any_size": True})
    """Stop before there are more evaluations than this, in whole generations. None: no limit."""
    seconds: float | None = field(default=None, metadata={"any_size": True})
    """Stop after so many seconds of generations, interruptions not counted; the result then depends on the machine. None: no
    limit."""
    patience: int | None = field(default=None, metadata={"any_size": True})
    """Stop after so many generations without a fitter mask, or, with several objectives, a change of the Pareto front. None: no
    limit."""
    start: tuple[str, ...] = ("random",)
    """The first generation: random (random masks), the name of a baseline (snip, grasp, synflow, magnitude, erk, ...) or of a
    schedule of masks (the mask that dissipate, gmp, set, rigl or granet leaves), or the path of a mask.npz or of a run folder;
    in Python also a mask. Several may be given; random masks fill up the rest. The cost of given masks is not counted."""
    starts: int | None = None
    """Number of masks in the first generation; random ones fill it up. None: as many as --offspring."""
    algorithm: str = "mu+lambda"
    """mu+lambda (parents and children compete) or generational (children replace parents, but for the elites)."""
    elites: int = 1
    """Fittest masks that a generational algorithm keeps."""
    steady_state: bool = False
    """Breed children as soon as a worker is free, from the masks that have arrived by then, instead of waiting for the whole
    generation (mu+lambda only). No worker idles; but the order of arrivals, and so the result, depends on the machine. It is
    recorded, and an interrupted run resumes from it. --offspring arrivals make a generation."""
    slots: int | None = None
    """With --steady-state: chunks that are evaluated at a time. None: the number of workers at the start, which a run keeps;
    give a number if more will come."""
    selection: str | None = None
    """DEAP's selection of survivors (mu+lambda: best, tournament or nsga2) or of parents (generational: tournament). None: best
    for mu+lambda, nsga2 for several objectives."""
    tournament_size: int = 3
    """Number of masks in a tournament."""
    crossover: str = "uniform"
    """uniform (over the positions in which the parents differ), layer (whole layers), or neuron (a neuron with its incoming
    weights)."""
    crossover_probability: float = 0.2
    """Probability that a child has two parents. Of mu+lambda, the others are mutants."""
    mutation: tuple[str, ...] = ("informed",)
    """Drawn from for each mutant; a name that is given twice is drawn twice as often: swap (random survivors out, random
    weights in), informed (out: those that moved least in the parent's evaluation; in: the largest dense gradients), density
    (survivors move from one layer to another), or sparsity (their number changes)."""
    mutation_probability: float = 0.8
    """Probability that a child of a generational algorithm is mutated."""
    fraction: float = 0.2
    """Fraction of the survivors that a mutation exchanges in the first generation."""
    last_fraction: float = 0.05
    """The same in the last generation; in between, the fraction falls as a cosine."""
    among: float = 1.5
    """The informed mutation draws the weights that it exchanges among so many times as many, the first in the evidence."""
    drop: str = "absolute"
    """Which survivors the informed mutation takes out, and which go as sparsity rises: those of the least absolute movement,
    relative movement, or magnitude, at the end of the parent's brief training."""
    grow: str = "gradient"
    """Which weights the informed mutation puts in: gradient (the largest dense gradients) or random."""
    scope: str = "global"
    """The part that keeps its number of survivors under swap, informed, uniform and neuron: global (the whole mask) or layer
    (every layer)."""
    first_sparsity: float | None = None
    """Sparsity of the first generation, if it is to rise: in each of the next --sparsify generations the survivors become fewer
    by the same factor, until --sparsity is reached. --drop says which weights children lose; they replace their parents.
    None: --sparsity."""
    sparsify: int | None = None
    """Generations over which sparsity rises from --first-sparsity. None: 5, or half of the generations with --inherit."""
    inherit: bool = False
    """Let children continue training from their parent's weights. A generation is then a piece of the recipe, of
    --fitness-epochs, and the population trains through the recipe once. In each generation every parent has a child that
    continues unchanged (while sparsity rises, less its lowest survivors), and the others are bred; the fittest k of the
    children are the next parents."""
    min_sparsity: float | None = None
    """Least sparsity that the mutation sparsity may reach. None: 1 - 1.5 times the density."""
    max_sparsity: float | None = None
    """Largest sparsity that it may reach. None: 1 - 0.5 times the density."""
    hall_of_fame: int = 10
    """Fittest masks ever that are kept; with several objectives the whole Pareto front is."""

    @property
    def children(self) -> int:
        """Number of children in each generation."""
        return self.offspring or (2 * self.k if self.algorithm == "mu+lambda" else self.k)

    @property
    def most_evaluations(self) -> int:
        """Number of evaluations if every child is new, and nothing ends the search before the last generation."""
        return self.first + self.generations * self.children

    @property
    def first(self) -> int:
        """Number of masks in the first generation; more if a given run folder holds more, fewer if masks are equal."""
        named = len([name for name in self.names if name != RANDOM]) + len(self.masks)
        return max(named, self.starts or self.children) if RANDOM in self.names else named

    def evidence(self, sparsity: float) -> float:
        """Returns the fraction of the survivors that evidence has to name; 0 for none."""
        named = self.among * max(self.fraction, self.last_fraction) if "informed" in self.mutation else 0.0
        if self.first_sparsity is not None:
            left = ((1 - sparsity) / (1 - self.first_sparsity)) ** (1 / self.rising)
            regrown = left * max(self.fraction, self.last_fraction) if self.inherit else 0.0
            named = max(named, self.among * (1 - left + regrown))
        return min(1.0, named)

    @property
    def rising(self) -> int:
        """Generations over which sparsity rises, if it does."""
        if self.sparsify is not None:
            return self.sparsify
        return max(1, self.generations // 2) if self.inherit else 5

    def through(self, epochs: int, brief: int) -> Evolution:
        """Returns these options for a recipe: with inherited weights, no more generations than it has pieces.

        Args:
            epochs: The recipe's epochs.
            brief: Epochs of a piece.
        """
        if not self.inherit or not all(isinstance(number, int) for number in (self.generations, brief)):
            return self
        return dataclasses.replace(self, generations=min(self.generations, max(0, epochs // max(1, brief) - 1)))

    def begin(self, sparsity: float) -> float:
        """Returns the sparsity of the first generation."""
        return sparsity if self.first_sparsity is None else self.first_sparsity

    def survivors_at(self, gen: int, sparsity: float, n: int) -> int | None:
        """Returns how many of n weights a generation's masks keep, while sparsity rises; None where it does not."""
        if self.first_sparsity is None or not 0 < gen <= self.rising:
            return None
        first, last = survivors_of(self.first_sparsity, n), survivors_of(sparsity, n)
        return last if gen == self.rising else round(first * (last / first) ** (gen / self.rising))

    def fraction_at(self, gen: int) -> float:
        """Returns the fraction that the mutants of a generation exchange, from 1 on."""
        done = min(1.0, (gen - 1) / max(1, self.generations - 1))
        return self.last_fraction + (self.fraction - self.last_fraction) * 0.5 * (1 + math.cos(math.pi * done))

    def __post_init__(self) -> None:
        for name in ("start", "mutation"):
            value = getattr(self, name)
            values = (value,) if callable(value) or isinstance(value, (str, os.PathLike, Mask)) else tuple(value)
            object.__setattr__(self, name, tuple(os.fspath(v) if isinstance(v, os.PathLike) else v for v in values))
        # the setting keeps its text, and the path does not depend on a later working folder
        object.__setattr__(self, "_places", {name: Path(name).absolute() for name in self.start if isinstance(name, str)})

    @property
    def names(self) -> tuple[str, ...]:
        """The starts that are names or paths, each once."""
        return tuple(dict.fromkeys(start for start in self.start if isinstance(start, str)))

    @property
    def masks(self) -> tuple[Mask, ...]:
        """The starts that are masks."""
        given: tuple[object, ...] = self.start
        return tuple(start for start in given if isinstance(start, Mask))

    def to_settings(self) -> dict[str, Any]:
        """Returns the options as JSON values; a mask is named by its hash."""
        start = [f"mask {s.hash}" if isinstance(s, Mask) else s for s in self.start]
        return {**asdict(dataclasses.replace(self, start=())), "start": start}

    def place(self, name: str) -> Path:
        """Returns the path that a start names, as it was when the options were made."""
        places: dict[str, Path] = self._places  # type: ignore[attr-defined]
        return places[name]

    def bounds(self, sparsity: float) -> tuple[float, float]:
        """Returns the least and the largest sparsity that masks may have."""
        if "sparsity" not in self.mutation:
            return sparsity, sparsity
        density = 1 - sparsity
        low = max(0.0, 1 - 1.5 * density) if self.min_sparsity is None else self.min_sparsity
        return low, 1 - 0.5 * density if self.max_sparsity is None else self.max_sparsity
