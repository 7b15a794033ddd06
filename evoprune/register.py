"""Registration of a user's own things by name: ``ep.register``.

Each function here is a decorator, or is called with the thing::

    @ep.register.mutation("mine")
    def mine(mask, *, fraction, rng):
        return ep.operators.swap(mask, fraction=fraction, rng=rng)

    ep.register.mutation("mine", mine)

The name then works wherever a built-in one does: in Python, on the command line with ``--load my_file.py``, and in comparisons.
A name that is built in, or that stands for something else already, is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

T = TypeVar("T")


class Register(Protocol):
    """Adds a thing under a name: as a decorator, or called with both."""

    @overload
    def __call__(self, name: str) -> Callable[[T], T]: ...
    @overload
    def __call__(self, name: str, thing: T) -> T: ...


def _kind(find: Callable[[], Callable[[str, Any], object]]) -> Register:
    """Makes the function that registers one kind from one that imports the registry: only a kind that is used is imported."""

    @functools.wraps(find)
    def register(name: str, thing: Any = None) -> Any:
        if thing is None:
            return functools.partial(register, name)
        find()(name, thing)
        return thing

    del register.__wrapped__  # whose signature help() would show
    return register


@_kind
def fitness() -> Callable[[str, Any], object]:
    """Registers a fitness: a term, or names of terms; see :func:`evoprune.evaluation.fitness.register_fitness`."""
    from evoprune.evaluation.fitness import register_fitness

    return register_fitness


@_kind
def mutation() -> Callable[[str, Any], object]:
    """Registers a mutation: ``function(mask, *, fraction, rng)``, which changes the mask in place and returns ``(mask,)``."""
    from evoprune.operators.mutation import MUTATIONS

    return MUTATIONS.register


@_kind
def crossover() -> Callable[[str, Any], object]:
    """Registers a crossover: ``function(a, b, *, rng)``, which changes both masks in place and returns ``(a, b)``."""
    from evoprune.operators.crossover import CROSSOVERS

    return CROSSOVERS.register


@_kind
def baseline() -> Callable[[str, Any], object]:
    """Registers a baseline: ``function(problem, *, sparsity, seed)``, which returns a mask."""
    from evoprune.baselines.registry import BASELINES

    return BASELINES.register


@_kind
def model() -> Callable[[str, Any], object]:
    """Registers a network: a function that returns a module.

    It is called with ``input_shape`` and ``classes`` if it requires them, and with ``widths`` if they are given.
    """
    from evoprune.problem.models import MODELS

    return MODELS.register


@_kind
def data() -> Callable[[str, Any], object]:
    """Registers a data set: a function that returns ``ep.Data``; it may take ``data_dir``."""
    from evoprune.problem.load import DATA

    return DATA.register


def prunable(name: str, module: Any = None, *, weights: str | Sequence[str] = "weight") -> Any:
    """Registers a kind of modules with prunable weights: ``ep.register.prunable("low-rank", LowRank, weights=("a", "b"))``.

    Args:
        name: Its name.
        module: The class; without it, this returns a decorator. Subclasses count, too.
        weights: Names of the prunable parameters in such a module; ``*`` stands for any letters.

    Raises:
        InputError: The name stands for another class, or the class is none of modules.
    """
    if module is None:
        return functools.partial(prunable, name, weights=weights)
    from evoprune.problem.kinds import KINDS, Kind

    KINDS.register(name, Kind(module, (weights,) if isinstance(weights, str) else tuple(weights)))
    return module


@_kind
def augmentation() -> Callable[[str, Any], object]:
    """Registers an augmentation: ``function(batch)``, which returns a changed batch of training examples as they are stored.

    It draws from torch's, numpy's or Python's global generator, which are seeded for each batch.
    """
    from evoprune.problem.augmentation import AUGMENTATIONS

    return AUGMENTATIONS.register


@_kind
def metric() -> Callable[[str, Any], object]:
    """Registers a metric: ``function(outputs, targets)``, which returns a number, or an object like those of torchmetrics.

    See :class:`evoprune.problem.metrics.Metric`. With the attribute ``higher_is_better = False``, smaller values are better.
    """
    from evoprune.problem.metrics import METRICS

    return METRICS.register


@_kind
def schedule() -> Callable[[str, Any], object]:
    """Registers a schedule: a class or ``function(problem, sparsity)`` that makes an :mod:`evoprune.training.schedule`."""
    from evoprune.training.registry import SCHEDULES

    return SCHEDULES.register


@_kind
def learning_rate() -> Callable[[str, Any], object]:
    """Registers a schedule of the learning rate: ``function(progress)``, which returns a factor of the recipe's ``lr``."""
    from evoprune.problem.learning_rates import LEARNING_RATES

    return LEARNING_RATES.register


@_kind
def optimizer() -> Callable[[str, Any], object]:
    """Registers an optimiser: a class derived from ``torch.optim.Optimizer``, or a function that makes one."""
    from evoprune.problem.optimizers import OPTIMIZERS

    return OPTIMIZERS.register


@_kind
def engine() -> Callable[[str, Any], object]:
    """Registers an engine: a class of populations, see :class:`evoprune.engines.population.Population`."""
    from evoprune.engines.registry import ENGINES

    return ENGINES.register


@_kind
def workers() -> Callable[[str, Any], object]:
    """Registers workers: ``function(name, evaluation_timeout)``, which returns :class:`evoprune.workers.base.Workers`."""
    from evoprune.workers.choose import WORKERS

    return WORKERS.register


@_kind
def logger() -> Callable[[str, Any], object]:
    """Registers a logger: a class, or a function without arguments, that makes a :class:`evoprune.loggers.Logger`."""
    from evoprune.loggers.registry import LOGGERS

    return LOGGERS.register


def figure(name: str, function: Any = None, *, suits: Callable[[Path], bool] | None = None) -> Any:
    """Registers a figure of runs: ``function(folder)``, which returns a matplotlib figure of a run folder.

    It is drawn with every run that it suits, and by ``evoprune plot NAME RUN``.

    Args:
        name: Its name, and that of its file.
        function: The function; without it, this returns a decorator.
        suits: Tells whether a run folder has the data for it; None: every finished run has.
    """
    if function is None:
        return functools.partial(figure, name, suits=suits)
    from evoprune.figures.runs import register_figure

    return register_figure(name, function, suits)


@_kind
def method() -> Callable[[str, Any], object]:
    """Registers a method: a class with ``Options``, and ``ask`` and ``tell`` or ``find``; see :mod:`evoprune.search.method`."""
    from evoprune.search.registry import METHODS

    return METHODS.register
