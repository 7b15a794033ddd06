"""Callbacks, which are called after each generation of an evolution."""

from __future__ import annotations

from typing import Protocol

from evoprune.search.evolution.state import State


class Callback(Protocol):
    """A callback of :func:`evoprune.search.evolution.evolve.evolve`, which sees its whole state.

    A :class:`evoprune.loggers.Logger` sees the runs of every method instead.

    An error that it raises ends the run; the generation is on disk by then, and the run resumes. A run that was killed between
    the two does not call again for that generation, and one whose checkpoint was damaged calls twice.
    """

    def on_generation(self, state: State) -> None:
        """Called after each generation; a resumed run does not call it again for earlier generations.

        Args:
            state: The state after the generation; do not change it. ``state.logbook[-1]`` is the generation's record.
        """
