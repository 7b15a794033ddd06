"""The memory of this machine, against what work would need."""

from __future__ import annotations

import os

from evoprune.errors import InputError


def require_memory(needed: float, what: str) -> None:
    """Refuses work whose data cannot fit into the memory of this machine.

    Args:
        needed: Bytes that it needs at least.
        what: The data, for the message, such as ``a generation of 100 masks``.

    Raises:
        InputError: The machine has less.
    """
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return
    if needed > there:
        raise InputError(
            f"{what} would take {needed / 1e9:,.0f} GB of memory, and this machine has {there / 1e9:,.0f}; take less."
        )
