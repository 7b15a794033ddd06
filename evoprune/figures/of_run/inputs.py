"""The pixels of an image that the first layer reads: the survivors that are connected to each."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evoprune.errors import InputError
from evoprune.figures.of_run.reading import read_finished
from evoprune.masks.mask import Mask
from evoprune.runs import records
from evoprune.runs.sums import require_intact

_MOST_CHANNELS = 4


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data: the inputs are images, and the first layer reads them whole."""
    result = records.read_json(folder / "result.json")
    if result is None or not (folder / "mask.npz").exists():
        return False
    shape, layers = result.get("input_shape"), result.get("layers")
    if not isinstance(shape, list) or len(shape) != 3 or not isinstance(layers, dict) or not layers:
        return False
    require_intact(folder, "result.json", "mask.npz")
    first = next(iter(Mask.load(folder / "mask.npz").shapes.values()))
    return shape[0] <= _MOST_CHANNELS and len(first) == 2 and first[1] == math.prod(shape)


def inputs_figure(folder: Path) -> Figure:
    """Draws the number of survivors of the first layer that read each pixel, a panel for each channel."""
    counts = read_pixels(folder)
    names = ["red", "green", "blue"] if len(counts) == 3 else [f"channel {i}" for i in range(len(counts))]
    figure = Figure(figsize=(1.4 + 3.2 * len(counts), 3.6), layout="constrained")
    axes = figure.subplots(1, len(counts), squeeze=False)[0]
    for ax, channel, name in zip(axes, counts, names, strict=True):
        shown = ax.imshow(channel, vmin=0, vmax=max(1, int(counts.max())), cmap="viridis")
        ax.set_xticks([])
        ax.set_yticks([])
        if len(counts) > 1:
            ax.set_title(name, fontsize="medium")
    unread = int((counts == 0).sum())
    figure.colorbar(shown, ax=list(axes), label="survivors that read the pixel")
    figure.suptitle(f"{unread:,} of {counts.size:,} inputs are not read", fontsize="medium")
    return figure


def read_pixels(folder: Path) -> NDArray[np.int64]:
    """Returns the number of survivors of the first layer that read each pixel [channels, rows, columns].

    Raises:
        InputError: The folder holds no finished run on images, or a file differs from the one that was written.
    """
    _, result = read_finished(folder, "mask.npz")
    layer = next(iter(Mask.load(folder / "mask.npz").layers.values()))
    shape = tuple(int(n) for n in result.get("input_shape", ()))
    if layer.ndim != 2 or len(shape) != 3 or layer.shape[1] != math.prod(shape):
        raise InputError(f"{folder} holds a run whose first layer does not read whole images; choose another figure.")
    counts: NDArray[np.int64] = layer.sum(axis=0, dtype=np.int64).reshape(shape)
    return counts
