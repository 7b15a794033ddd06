"""Evolutionary search for sparse neural networks at initialization."""

from evoprune import baselines
from evoprune._version import __version__
from evoprune.algorithms import baseline, combine, dissipate, k_starts
from evoprune.data import Data
from evoprune.dissipation import Dissipation
from evoprune.errors import EvopruneError, InputError, RunError
from evoprune.evaluate import Evaluation, Evaluator
from evoprune.fitness import register_fitness
from evoprune.initialize import layer_survivors, random_mask
from evoprune.mask import Collapse, Fitness, Mask
from evoprune.problem import Problem
from evoprune.recipe import Recipe
from evoprune.result import Result
from evoprune.run import Run
from evoprune.toolbox import make_statistics, make_toolbox

__all__ = [
    "Collapse",
    "Data",
    "Dissipation",
    "Evaluation",
    "Evaluator",
    "EvopruneError",
    "Fitness",
    "InputError",
    "Mask",
    "Problem",
    "Recipe",
    "Result",
    "Run",
    "RunError",
    "__version__",
    "baseline",
    "baselines",
    "combine",
    "dissipate",
    "k_starts",
    "layer_survivors",
    "make_statistics",
    "make_toolbox",
    "random_mask",
    "register_fitness",
]
