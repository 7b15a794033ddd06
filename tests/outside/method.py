"""A method: hill climbing. Each step swaps a few survivors of the fittest mask, and keeps the fitter mask."""

from dataclasses import dataclass

import evoprune as ep
from evoprune.search.options import SearchOptions


@dataclass(frozen=True)
class ClimbOptions(SearchOptions):
    """Options of hill climbing."""

    fitness: str = "loss"
    """Score of a brief training."""
    fitness_epochs: int = 1
    """Epochs of the brief training."""
    steps: int = 3
    """Number of steps."""


@ep.register.method("climb")
class Climb:
    """Hill climbing: swap survivors of the fittest mask, and keep the fitter one."""

    Options = ClimbOptions

    def __init__(self, session, options):
        self.options, self.problem, self.rng = options, session.problem, session.generator("variation")
        self.best, self.step = None, 0

    @property
    def finished(self):
        return self.step > self.options.steps

    def ask(self):
        if self.best is None:
            return [ep.random_mask(self.problem.shapes, self.options.sparsity, self.rng, self.options.layer_densities)]
        child = ep.Mask(self.best.bits, self.best.shapes)
        ep.operators.swap(child, fraction=0.1, rng=self.rng)
        return [child]

    def tell(self, masks):
        self.best = max([*masks, *([self.best] if self.best else [])], key=lambda mask: mask.fitness.values)
        self.step += 1

    def chosen(self):
        return {"winner": self.best}

    @staticmethod
    def cost(problem, options):
        density = 1 - options.sparsity
        return lambda epochs: (options.steps * options.fitness_epochs + epochs) * density

    @staticmethod
    def evaluations(problem, options):
        return options.steps + 1
