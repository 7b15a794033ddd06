"""Figures of an evolution run over its generations; of a run that is still going on, those of what it has recorded so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from evoprune.errors import InputError
from evoprune.figures.evolution_data import (
    Evaluated,
    Finals,
    Spread,
    read_evaluated,
    read_finals,
    read_fitness,
    read_generations,
    read_survivors,
)
from evoprune.figures.styles import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, scale_density
from evoprune.runs import records

# Of a length that has no divisor in common, so that 30 pairs pass before one repeats.
_COLORS, _MARKERS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY), "osv^D"
_ROOM = (0.1, 0.06)  # of a label, as fractions of the points' range
_FRONTS = 6


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the distinct points that no other dominates, both numbers the larger the better; the first one ascends."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front[::-1]


def plot_fitness(ax: Axes, spread: Spread) -> None:
    """Draws an objective over the generations: mean, standard deviation and range of the population, and the best so far."""
    low, mean, high, std = (np.array(values, dtype=float) for values in (spread.low, spread.mean, spread.high, spread.std))
    inner = np.clip([mean - std, mean + std], low, high)
    _band(ax, spread.gens, mean, low, high, color=BLUE, alpha=0.15, label="least to largest")
    if len(spread.gens) > 1:
        ax.fill_between(spread.gens, *inner, color=BLUE, alpha=0.25, linewidth=0, label="mean ± std, within the range")
    ax.plot(spread.gens, mean, color=BLUE, marker="o", markersize=4, label="population mean")
    if spread.best is not None:
        ax.plot(spread.gens, spread.best, "--", color=VERMILLION, marker="s", markersize=4, label="best so far")
    ax.set_ylabel(_label(spread.name))
    _generations(ax, spread.gens)


def plot_finals(ax: Axes, finals: Finals) -> None:
    """Draws quality after the full training against fitness, a point a mask, coloured by the generation that first had it."""
    first = [gens[0] for gens in finals.gens]
    points = ax.scatter(finals.fitness, finals.quality, c=first, cmap=_sequential(), zorder=2)
    for i in _with_room(finals.fitness, finals.quality):
        text = "–".join(str(gen) for gen in dict.fromkeys(finals.gens[i]))
        at = (finals.fitness[i], finals.quality[i])
        last = i == len(first) - 1  # the fittest, with nothing to its right
        align: dict[str, Any] = {"ha": "left", "va": "center"} if last else {"ha": "center"}
        ax.annotate(text, at, (6, 0) if last else (0, 6), textcoords="offset points", fontsize="small", **align)
    if len(set(first)) > 1:
        ax.figure.colorbar(points, ax=ax, ticks=MaxNLocator(integer=True), label="first generation that it was the best of")
    rho = _rank_correlation(finals.fitness, finals.quality)
    diverged = f", {finals.diverged} diverged" if finals.diverged else ""
    rho_text = "not defined" if rho is None else f"{rho:+.2f}"
    ax.set_title(f"Spearman's ρ = {rho_text} ({len(first)} best mask{'' if len(first) == 1 else 's'}{diverged})")
    ax.set_xlabel(_label(finals.name))
    ax.set_ylabel(f"{'validation accuracy' if finals.is_accuracy else '− validation loss'} after the full training")
    ax.margins(0.12)
    ax.grid(alpha=0.3)


def plot_diversity(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the population's diversity over the generations, and that of random masks with the same survivors in each layer."""
    gens = [int(row["gen"]) for row in rows]
    ax.plot(gens, [row["diversity"] for row in rows], color=BLUE, marker="o", markersize=4, label="population")
    label = "by chance: random masks, same layer counts"
    ax.plot(gens, [row["chance_diversity"] for row in rows], "--", color=GREY, marker="s", markersize=4, label=label)
    if all(math.isnan(row["diversity"]) for row in rows):
        ax.text(0.5, 0.5, "not defined: no two masks in the population", transform=ax.transAxes, ha="center")
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("diversity (1 − mean pairwise IoU)")
    ax.legend(fontsize="small")
    _generations(ax, gens)


def plot_evaluations(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the number of new evaluations of each generation."""
    gens = [int(row["gen"]) for row in rows]
    ax.bar(gens, [row["nevals"] for row in rows], 0.8 if len(gens) > 2 else 0.2, color=GREY)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_ylabel("new evaluations")
    _generations(ax, gens)


def plot_densities(ax: Axes, layers: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draws the density of each layer over the generations: mean and range of the population, and that of the best so far."""
    handles, seen = [], []
    for i, (name, rows) in enumerate(layers.items()):
        gens = [int(row["gen"]) for row in rows]
        low, mean, high, best = (100 * np.array([r[c] / r["size"] for r in rows]) for c in ("min", "mean", "max", "best"))
        style: dict[str, Any] = {"color": _COLORS[i % len(_COLORS)], "marker": _MARKERS[i % len(_MARKERS)], "markersize": 5}
        _band(ax, gens, mean, low, high, color=style["color"], alpha=0.15)
        handles += ax.plot(gens, mean, label=f"{name} of {rows[0]['size']:,.0f}", **style)
        ax.plot(gens, best, "--", markerfacecolor="white", linewidth=1, **style)
        seen += [*low, *mean, *high, *best]
    finite = [density for density in seen if math.isfinite(density)]
    positive = [density for density in finite if density > 0] or [100.0]
    scale_density(ax, min(positive), max(positive), with_zero=min(finite, default=0) == 0)
    handles.append(Line2D([], [], color=GREY, marker="o", markersize=5, label="population mean\n(band: least to largest)"))
    handles.append(Line2D([], [], color=GREY, marker="o", markersize=5, markerfacecolor="white", ls="--", label="best so far"))
    ax.set_ylabel("density of the layer (log scale)")
    ax.legend(handles=handles, fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1), handlelength=3)
    _generations(ax, [int(row["gen"]) for rows in layers.values() for row in rows])


def plot_fronts(ax: Axes, evaluated: Evaluated) -> None:
    """Draws all evaluations, and the Pareto front of those up to some generations, from the first to the last."""
    gens = sorted({gen for gen, _, _ in evaluated.points})
    shown = [gens[i] for i in np.unique(np.linspace(0, len(gens) - 1, _FRONTS).round().astype(int))]
    x, y = zip(*(point[1:] for point in evaluated.points), strict=True)
    ax.scatter(x, y, s=12, color=GREY, alpha=0.5, linewidth=0, label="all evaluations")
    colors = _sequential()(np.linspace(0, 1, len(shown)))
    for i, (gen, color) in enumerate(zip(shown, colors, strict=True)):
        front = pareto_front([point[1:] for point in evaluated.points if point[0] <= gen])
        size = 10 - 5 * i / max(1, len(shown) - 1)  # so that a point of several fronts shows the colour of each
        label = f"front up to generation {gen}"
        ax.plot(*zip(*front, strict=True), drawstyle="steps-pre", color=color, marker="os^DvP"[i], markersize=size, label=label)
    left_out = f", {evaluated.left_out} more failed or not finite" if evaluated.left_out else ""
    more = f", first two of {evaluated.objectives} objectives" if evaluated.objectives > 2 else ""
    ax.set_title(f"{len(evaluated.points)} evaluations{left_out}{more}")
    ax.set_xlabel(_label(evaluated.names[0]))
    ax.set_ylabel(_label(evaluated.names[1]))
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def fitness_figure(folder: Path) -> Figure:
    """Returns the figure of fitness over the generations: a panel an objective."""
    spreads, rows = read_fitness(folder), read_generations(folder)
    figure = Figure(figsize=(max(6.5, 5.0 * len(spreads)), 4.8), layout="constrained")
    axes = figure.subplots(1, len(spreads), squeeze=False)[0]
    for ax, spread in zip(axes, spreads, strict=True):
        plot_fitness(ax, spread)
    gens = "generation 0" if len(rows) == 1 else f"generations {rows[0]['gen']:g} to {rows[-1]['gen']:g}"
    figure.suptitle(f"{sum(row['nevals'] for row in rows):,.0f} evaluations, {gens}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def finals_figure(folder: Path) -> Figure:
    """Returns the figure of validation accuracy after the full training against fitness, of the best masks."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    plot_finals(figure.subplots(), read_finals(folder))
    return figure


def diversity_figure(folder: Path) -> Figure:
    """Returns the figure of diversity over the generations, and of their evaluations below."""
    rows = read_generations(folder)
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    plot_diversity(upper, rows)
    plot_evaluations(lower, rows)
    upper.set_xlabel("")
    return figure


def survivors_figure(folder: Path) -> Figure:
    """Returns the figure of the layers' densities over the generations."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    plot_densities(figure.subplots(), read_survivors(folder))
    return figure


def fronts_figure(folder: Path) -> Figure:
    """Returns the figure of the Pareto fronts over the generations."""
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    plot_fronts(figure.subplots(), read_evaluated(folder))
    return figure


EVOLUTION_FIGURES: dict[str, Callable[[Path], Figure]] = {
    "fitness": fitness_figure,
    "finals": finals_figure,
    "diversity": diversity_figure,
    "survivors": survivors_figure,
    "fronts": fronts_figure,
}
_READERS: dict[str, Callable[[Path], object]] = {
    "fitness": read_fitness,
    "finals": read_finals,
    "diversity": read_generations,
    "survivors": read_survivors,
    "fronts": read_evaluated,
}


def evolution_figures_of(folder: Path) -> list[str]:
    """Returns the names of the figures of an evolution that a folder has data for; none for a run of another method."""
    if (records.read_json(folder / "config.json") or {}).get("method") != "evolve":
        return []
    return [name for name, read in _READERS.items() if _succeeds(read, folder)]


def _succeeds(read: Callable[[Path], object], folder: Path) -> bool:
    try:
        read(folder)
    except InputError:
        return False
    return True


def _label(name: str) -> str:
    return {"accuracy": "validation accuracy after the brief training", "sparsity": "sparsity"}.get(name, f"fitness ({name})")


def _sequential() -> ListedColormap:
    return ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, 256)))  # the last tenth is too light on white


def _rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    from scipy import stats  # slow to import, and no worker needs it

    return float(stats.spearmanr(x, y).statistic)


def _with_room(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Returns indices of points whose labels do not overlap: the last, the first, and of the others as many as fit."""
    points = np.column_stack([x, y])
    places = (points - points.min(0)) / np.where(np.ptp(points, 0) > 0, np.ptp(points, 0), 1)
    chosen: list[int] = []
    for i in dict.fromkeys([len(x) - 1, 0, *range(len(x))]):
        if all((abs(places[i] - places[j]) > _ROOM).any() for j in chosen):
            chosen.append(i)
    return chosen


def _band(ax: Axes, gens: Sequence[int], mean: Any, low: Any, high: Any, alpha: float, **style: Any) -> None:
    if len(gens) > 1:
        ax.fill_between(gens, low, high, alpha=alpha, linewidth=0, **style)
    else:  # one generation gives a band no width
        ax.errorbar(gens, mean, np.maximum([mean - low, high - mean], 0), fmt="none", capsize=4, **style)


def _generations(ax: Axes, gens: Sequence[int]) -> None:
    ax.set_xlabel("generation")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_xlim(min(gens) - 0.5, max(gens) + 0.5)
    ax.grid(axis="y", alpha=0.3)
