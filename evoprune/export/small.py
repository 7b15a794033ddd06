"""A shrunk network as a file, and its measured speed."""

from __future__ import annotations

import io
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.errors import InputError
from evoprune.export.quiet import quietly
from evoprune.export.shrinking import shrink
from evoprune.training.threads import torch_threads

_SECONDS = 0.3  # of each measurement
_TURNS = 5


def small_file(model: nn.Module, x: Tensor) -> tuple[bytes, dict[str, Any]]:
    """Returns a shrunk network as ``torch.export`` saves it, and how it compares with the dense one.

    Args:
        model: The network, zeros where weights were removed.
        x: The examples by which it is measured.

    Raises:
        InputError: torch cannot export the network.
    """
    small = shrink(model, example=x)
    with torch.no_grad():
        difference = float((small(x) - model(x)).abs().max())
    before, after = (sum(parameter.numel() for parameter in each.parameters()) for each in (model, small))
    facts = {
        "parameters": f"{before:,} before, {after:,} after",
        "largest difference": f"{difference:.2g}",
        f"times as fast, batch {len(x)}, one thread": f"{speed_up(model, small, x):.2f}",
    }
    return _exported(small, x), facts


def speed_up(model: nn.Module, small: nn.Module, x: Tensor) -> float:
    """Returns how many times as fast a network computes a batch as another, on one thread: the median of some turns."""
    ratios = []
    with torch_threads(1), torch.no_grad():
        for _ in range(_TURNS):
            ratios.append(_seconds(model, x) / _seconds(small, x))
    return statistics.median(ratios)


def _seconds(model: nn.Module, x: Tensor) -> float:
    model(x)
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < _SECONDS / _TURNS:
        model(x)
        count += 1
    return passed / count


def _exported(model: nn.Module, x: Tensor) -> bytes:
    buffer = io.BytesIO()
    try:
        with quietly():
            shapes = ({0: torch.export.Dim("batch")},) if len(x) > 1 else None
            torch.export.save(torch.export.export(model, (x,), dynamic_shapes=shapes), buffer)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"torch cannot export the shrunk network: {type(error).__name__}: {said}. ep.export.shrink(model) returns it."
        ) from error
    return buffer.getvalue()
