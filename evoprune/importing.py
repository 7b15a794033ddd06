"""Workers import the script to know its functions; a script that starts its work as it is imported is found out here."""

from __future__ import annotations

import multiprocessing
import os
import sys

# Exit status of a worker of our launcher that found it, which tells the launcher.
NO_MAIN_GUARD = 97
MISSING_GUARD = (
    "the script starts its work as workers import it; put its work under: if __name__ == '__main__': (definitions stay outside)"
)


def require_main_guard() -> None:
    """Ends a worker in which the script, as it is imported, starts a search: every worker would search by itself.

    Dask's workers and those of our launcher end without a word, since the main process or the launcher says it; other
    processes, such as of ``multiprocessing``, say it themselves.
    """
    script = sys.modules.get("SCOOP_WORKER")  # as which SCOOP's workers import it
    if getattr(getattr(script, "__spec__", None), "_initializing", False):
        if "evoprune.scoop.patches" in sys.modules:
            os._exit(NO_MAIN_GUARD)
        sys.exit(f"error: {MISSING_GUARD}")
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):  # a process that was spawned, before it has imported the script
        sys.exit(NO_MAIN_GUARD if process.name.startswith("Dask Worker") else f"error: {MISSING_GUARD}")
