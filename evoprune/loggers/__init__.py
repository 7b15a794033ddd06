"""Loggers: where a run is logged while it is under way. A logger is one class with four methods, see :class:`Logger`."""

from evoprune.loggers.jsonl import Jsonl
from evoprune.loggers.mlflow import Mlflow
from evoprune.loggers.protocol import End, Evaluated, Generation, Logger, Start
from evoprune.loggers.registry import LOGGERS, make_loggers
from evoprune.loggers.running import Loggers
from evoprune.loggers.tensorboard import TensorBoard
from evoprune.loggers.wandb import Wandb

__all__ = [
    "LOGGERS",
    "End",
    "Evaluated",
    "Generation",
    "Jsonl",
    "Logger",
    "Loggers",
    "Mlflow",
    "Start",
    "TensorBoard",
    "Wandb",
    "make_loggers",
]
