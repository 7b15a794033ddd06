"""How the kernels are compiled."""

from __future__ import annotations

from typing import Any

import numba

# strict arithmetic: division by zero gives infinity, as in torch; no way in from Python, which takes long to compile
compiled: Any = numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
# for functions that are called at one place: they become part of it before it is compiled
inlined: Any = numba.njit(nogil=True, error_model="numpy", inline="always")


def entry(function: Any) -> Any:
    """Compiles a function that Python calls, and keeps its machine code in numba's cache where that can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    try:
        return numba.njit(**options, cache=True)(function)
    except RuntimeError:  # no folder for it
        return numba.njit(**options)(function)
