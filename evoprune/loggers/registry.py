"""The registry of loggers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from evoprune.errors import InputError
from evoprune.loggers.jsonl import Jsonl
from evoprune.loggers.mlflow import Mlflow
from evoprune.loggers.protocol import METHODS
from evoprune.loggers.running import Loggers
from evoprune.loggers.tensorboard import TensorBoard
from evoprune.loggers.wandb import Wandb
from evoprune.registry import Registry, describe

_BUILT_IN: dict[str, Callable[..., Any]] = {"jsonl": Jsonl, "tensorboard": TensorBoard, "mlflow": Mlflow, "wandb": Wandb}


def _make_of(thing: Any) -> Callable[[], Any]:
    """Returns the function that makes a logger of a class or function, or that returns the logger that was given.

    Raises:
        InputError: The thing has none of a logger's methods.
    """
    is_logger = any(callable(getattr(thing, name, None)) for name in METHODS)
    if not is_logger and (isinstance(thing, type) or not callable(thing)):
        raise InputError(f"{describe(thing)} is no logger; expected a name, or an object with a method {', '.join(METHODS)}.")
    if callable(thing) and (isinstance(thing, type) or not is_logger):
        make: Callable[[], Any] = thing
        return make
    return lambda: thing


def _make_with(name: str, place: str) -> Callable[[], Any]:
    """Returns the function that makes a built-in logger with a place of the user's.

    Raises:
        InputError: The place is empty.
    """
    if not place:
        raise InputError(f"the logger '{name}:' has no name behind the colon; expected one, or {name!r} alone.")
    return partial(_BUILT_IN[name], place)


LOGGERS: Registry[Callable[[], Any]] = Registry(
    "logger", _BUILT_IN, _make_of, {name: partial(_make_with, name) for name in _BUILT_IN}
)


def make_loggers(given: Sequence[Any]) -> Loggers:
    """Makes the loggers of a run; nothing is written yet.

    Args:
        given: Names, classes, functions that make a logger, or loggers.

    Raises:
        InputError: An unknown name, a thing that is no logger, the same name twice, or a logger that cannot be made, such as
            one that is not installed.
    """
    made: dict[str, Any] = {}
    for value in given:
        make = LOGGERS.find(value)
        name = LOGGERS.name_of(value)
        if name in made and isinstance(value, str):
            raise InputError(f"the logger {name} is given twice; expected each once.")
        try:
            logger = make()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the logger {name} cannot be made: {type(error).__name__}: {error}") from error
        if not any(callable(getattr(logger, method, None)) for method in METHODS):
            raise InputError(f"the logger {name} is {logger!r}; expected an object with a method {', '.join(METHODS)}.")
        while name in made:
            name += "+"
        made[name] = logger
    return Loggers(made)
