"""Whether SCOOP started this process, and by which launcher."""

from __future__ import annotations

import sys


def under_scoop() -> bool:
    """Tells whether this process was started by SCOOP, by whichever launcher."""
    module = sys.modules.get("scoop")
    return bool(module is not None and module.IS_RUNNING)


def under_own_launcher() -> bool:
    """Tells whether this process was started by ``python -m evoprune.scoop``."""
    return under_scoop() and "evoprune.scoop.patches" in sys.modules
