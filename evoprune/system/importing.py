"""Workers import the script to know its functions; a script that starts its work as it is imported is found out here."""

from __future__ import annotations

import ast
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import FrameType

# Exit status of a worker of our launcher that found it, which tells the launcher.
NO_MAIN_GUARD = 97
MISSING_GUARD = (
    "the script starts its work as workers import it; put its work under: if __name__ == '__main__': (definitions stay outside)"
)


def require_main_guard() -> None:
    """Ends a worker in which the script, as it is imported, starts a search: every worker would search by itself.

    Dask's workers and those of our launcher end without a word, since the main process or the launcher says it. Others, such
    as of a pool of ``multiprocessing``, say it, and end the script: the pool would start them again and again.
    """
    script = sys.modules.get("SCOOP_WORKER")  # as which SCOOP's workers import it
    if getattr(getattr(script, "__spec__", None), "_initializing", False):
        if "evoprune.scoop.patches" in sys.modules:
            os._exit(NO_MAIN_GUARD)
        sys.exit(f"error: {MISSING_GUARD}")
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):  # a process that was spawned, before it has imported the script
        if process.name.startswith("Dask Worker"):
            sys.exit(NO_MAIN_GUARD)
        print(f"error: {MISSING_GUARD}", file=sys.stderr, flush=True)
        if "multiprocessing.forkserver" not in sys.modules:  # which would be the parent
            os.kill(os.getppid(), signal.SIGTERM)
        os._exit(NO_MAIN_GUARD)


def require_importable_script() -> None:
    """Ends the script where it starts workers that import it at a statement to which they would come, too."""
    if is_unguarded():
        sys.exit(f"error: {MISSING_GUARD}")


def is_unguarded() -> bool:
    """Tells whether the script is at a statement that processes which import it would come to, too: under no condition."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and (frame.f_code.co_name, frame.f_globals.get("__name__")) != ("<module>", "__main__"):
        frame = frame.f_back
    spec = None if frame is None else frame.f_globals.get("__spec__")
    if frame is None or (spec is not None and spec.name.endswith("__main__")):  # which nobody imports
        return False
    try:
        tree = ast.parse(Path(frame.f_code.co_filename).read_bytes())
    except (OSError, SyntaxError, ValueError):  # typed in, such as in a notebook
        return False
    line = frame.f_lineno
    around = [node for node in ast.walk(tree) if isinstance(node, (ast.If, ast.IfExp, ast.BoolOp, ast.Match))]
    return not any(node.lineno <= line <= (node.end_lineno or line) for node in around)
