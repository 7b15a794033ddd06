"""Survivors by layer, for the winner and the controls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evoprune.figures.of_run.reading import is_finished, read_finished
from evoprune.figures.styles import ROLE_COLORS, ROLE_LABELS, has_long_names, name_layers

WIDEST = 20.0  # inches
# layers whose densities have room as text
LABELLED = 80


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    return is_finished(folder)


def layers_figure(folder: Path) -> Figure:
    """Draws the survivors of each layer, for the winner and the controls."""
    layers = read_layers(folder)
    sizes = {name: size for name, (_, size) in layers["winner"].items()}
    width = _width(len(sizes))
    figure = Figure(figsize=(width, 5.7 if has_long_names(sizes, width) else 4.5), layout="constrained")
    plot_layers(figure.subplots(), layers)
    return figure


def read_layers(folder: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Reads survivors and size of each layer, by role.

    Raises:
        InputError: The folder holds no finished run.
    """
    _, result = read_finished(folder)
    chosen = {"winner": result, **result["controls"]}
    return {role: {name: (kept, size) for name, (kept, size) in f["layers"].items()} for role, f in chosen.items()}


def plot_layers(ax: Axes, layers: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
    """Draws the survivors of each layer, a point a role, with the layer's density in percent; as in :func:`plot_training`."""
    shown = {role: counts for role, counts in layers.items() if role in ROLE_LABELS}
    for i, (role, counts) in enumerate(shown.items()):
        positions = [j + 0.25 * (i - (len(shown) - 1) / 2) for j in range(len(counts))]
        ax.plot(positions, [kept for kept, _ in counts.values()], "o", color=ROLE_COLORS[role], label=ROLE_LABELS[role])
        for position, (kept, size) in zip(positions, counts.values(), strict=True) if len(counts) <= LABELLED else ():
            text = f"{100 * kept / size:.3g} %"
            ax.annotate(text, (position, kept), (0, 7), textcoords="offset points", rotation=90, ha="center", fontsize="small")
    sizes = {name: size for name, (_, size) in next(iter(layers.values())).items()}
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(0, 10 * max(sizes.values()))
    ax.set_xlim(-0.5, len(sizes) - 0.5)
    ax.grid(axis="y", alpha=0.3)
    name_layers(ax, sizes, _width(len(sizes)))
    ax.set_ylabel("survivors")
    ax.legend(fontsize="small", ncols=3)


def _width(layers: int) -> float:
    """Returns the width of a figure of so many layers, in inches."""
    return min(max(6.0, 2.0 * layers), WIDEST)
