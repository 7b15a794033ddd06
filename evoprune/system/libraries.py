"""Settings of numeric libraries, which read them from the environment when they are imported or first used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Processes that each use as many threads as there are cores slow one another down.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@contextmanager
def children_use_one_thread(more: Mapping[str, str] | None = None) -> Iterator[None]:
    """Lets libraries use one thread in the processes that are started inside.

    Args:
        more: Further variables of their environment.
    """
    settings = {**ONE_THREAD, **(more or {})}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
