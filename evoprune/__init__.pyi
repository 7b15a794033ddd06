from . import baselines, export, loggers, operators, register, workers
from ._version import __version__
from .comparison.options import compare
from .errors import CollapseWarning, EvopruneError, InputError, RunError, SurvivorsWarning, UnprunableWarning
from .estimators import SparseClassifier, SparseRegressor
from .evaluation.evaluation import Evaluation
from .evaluation.evaluator import Evaluator
from .evaluation.fitness import register_fitness
from .export.layers import SparseConv2d, SparseLinear
from .export.sparse import sparse
from .loggers.tensorboard import TensorBoard
from .masks.collapse import Collapse
from .masks.mask import Fitness, Mask
from .masks.random import layer_survivors, random_mask
from .problem.data import Data
from .problem.problem import Problem
from .problem.recipe import Recipe
from .runs.result import Result
from .runs.run import Run
from .search.ask import Search
from .search.baseline import baseline
from .search.combine import combine
from .search.dissipate import dissipate
from .search.evolution.callbacks import Callback
from .search.evolution.evolve import evolve
from .search.evolution.options import Evolution
from .search.kstarts import k_starts
from .search.registry import prune
from .search.statistics import make_statistics
from .search.toolbox import make_toolbox
from .search.train import train_mask
from .training.dissipation import Dissipation

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
    "Search",
    "SparseClassifier",
    "SparseConv2d",
    "SparseLinear",
    "SparseRegressor",
    "SurvivorsWarning",
    "TensorBoard",
    "UnprunableWarning",
    "__version__",
    "baseline",
    "baselines",
    "combine",
    "compare",
    "dissipate",
    "evolve",
    "export",
    "k_starts",
    "layer_survivors",
    "loggers",
    "make_statistics",
    "make_toolbox",
    "operators",
    "prune",
    "random_mask",
    "register",
    "register_fitness",
    "sparse",
    "train_mask",
    "workers",
]
