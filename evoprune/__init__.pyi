from . import baselines, operators, parallel
from ._version import __version__
from .algorithms import baseline, combine, dissipate, evolve, k_starts, train_mask
from .brief import Evaluation
from .callbacks import Callback, TensorBoard
from .data import Data
from .dissipation import Dissipation
from .errors import CollapseWarning, EvopruneError, InputError, RunError, SurvivorsWarning, UnprunableWarning
from .evaluate import Evaluator
from .evolution import Evolution
from .fitness import register_fitness
from .initialize import layer_survivors, random_mask
from .mask import Collapse, Fitness, Mask
from .problem import Problem
from .recipe import Recipe
from .result import Result
from .run import Run
from .toolbox import make_statistics, make_toolbox

__all__ = [
    "Callback",
    "Collapse",
    "CollapseWarning",
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
    "SurvivorsWarning",
    "TensorBoard",
    "UnprunableWarning",
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
    "parallel",
    "random_mask",
    "register_fitness",
    "train_mask",
]
