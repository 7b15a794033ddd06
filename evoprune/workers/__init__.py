"""Workers: the processes that evaluate masks. A back end is one class with four methods, see :class:`Workers`."""

from evoprune.workers.base import Broken, Lost, Outcome, Returned, Workers, attempt, pack
from evoprune.workers.choose import WORKERS, choose_workers
from evoprune.workers.launcher import under_scoop
from evoprune.workers.policy import evaluate, run
from evoprune.workers.pool import Pool
from evoprune.workers.serial import Serial

__all__ = [
    "WORKERS",
    "Broken",
    "Lost",
    "Outcome",
    "Pool",
    "Returned",
    "Serial",
    "Workers",
    "attempt",
    "choose_workers",
    "evaluate",
    "pack",
    "run",
    "under_scoop",
]
