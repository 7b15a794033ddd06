"""Evolutionary search for sparse neural networks at initialization."""

from evoprune import baselines, operators
from evoprune._version import __version__
from evoprune.algorithms import baseline, combine, dissipate, evolve, k_starts
from evoprune.brief import Evaluation
from evoprune.callbacks import Callback, TensorBoard
from evoprune.data import Data
from evoprune.dissipation import Dissipation
from evoprune.errors import EvopruneError, InputError, RunError
from evoprune.evaluate import Evaluator
from evoprune.evolution import Evolution
from evoprune.fitness import register_fitness
from evoprune.initialize import layer_survivors, random_mask
from evoprune.mask import Collapse, Fitness, Mask
from evoprune.problem import Problem
from evoprune.recipe import Recipe
from evoprune.result import Result
from evoprune.run import Run
from evoprune.toolbox import make_statistics, make_toolbox

__all__ = [
    "Callback",
    "Collapse",
    "Data",
    "Dissipation",
    "Evaluation",
    "Evaluator",
    "Evolution",
    "EvopruneError",
    "Fitness",
    "InputError",
    "Mask",
    "Problem",
    "Recipe",
    "Result",
    "Run",
    "RunError",
    "TensorBoard",
    "__version__",
    "baseline",
    "baselines",
    "combine",
    "dissipate",
    "evolve",
    "k_starts",
    "layer_survivors",
    "make_statistics",
    "make_toolbox",
    "operators",
    "random_mask",
    "register_fitness",
]
