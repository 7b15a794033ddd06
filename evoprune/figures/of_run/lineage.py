"""Lineage of the winner: the masks that it comes from, by generation and fitness."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from evoprune.figures.of_run.reading import is_finished, label_of, read_finished
from evoprune.figures.styles import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from evoprune.runs import records
from evoprune.runs.evaluations import read_evaluations
from evoprune.runs.sums import require_intact
from evoprune.search.evolution.lineage import Lineage, ancestors

_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)


@dataclass(frozen=True)
class Ancestor:
    """The winner, or a mask that it comes from.

    Attributes:
        mask: Its key.
        gen: The generation in which it was bred.
        operator: The operators that bred it.
        parents: The keys of its parents.
        fitness: Its fitness; None if it failed, or is not recorded.
    """

    mask: str
    gen: int
    operator: str
    parents: tuple[str, ...]
    fitness: float | None


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    return is_finished(folder) and (folder / "lineage.csv").exists()


def lineage_figure(folder: Path) -> Figure:
    """Draws the masks that the winner comes from, with their fitness, and the operators that bred them."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    plot_lineage(figure.subplots(), read_lineage(folder), read_finished(folder)[1]["fitness"])
    return figure


def read_lineage(folder: Path) -> list[Ancestor]:
    """Reads the winner and the masks that it comes from, the winner first, then from the youngest to the oldest.

    Raises:
        InputError: The folder holds no finished run with a lineage, or a file differs from the one that was written.
    """
    config, result = read_finished(folder, "lineage.csv")
    births = read_births(folder)
    fitness = _fitness(folder, config)
    # of masks with inherited weights a hash may name several, bred from different parents; older runs have no key
    own = [mask for mask in births if mask.partition("-")[0] == result["start"]]
    winner = result.get("key", own[-1] if own else "")
    found = ancestors(births, [winner])
    rows = [
        Ancestor(mask, int(gen), operator, tuple(parents), fitness.get(mask))
        for mask, (gen, operator, *parents) in found.items()
    ]
    return sorted(rows, key=lambda row: (row.mask != winner, -row.gen))


def read_births(folder: Path) -> Lineage:
    """Reads ``lineage.csv``.

    Raises:
        InputError: The file cannot be read, or differs from the one that was written.
    """
    require_intact(folder, "lineage.csv")
    path = folder / "lineage.csv"
    with records.as_written(path):
        return {
            row["mask"]: [int(row["gen"]), row["operator"], *filter(None, (row["parent"], row["other_parent"]))]
            for row in records.read_rows(path)
        }


def _fitness(folder: Path, config: dict[str, Any]) -> dict[str, float]:
    """Returns the first objective of each evaluation that did not fail."""
    settings, divisors = config["settings"], config["divisors"]
    terms = settings.get("fitness_terms", [])
    names = settings["fitness"] if isinstance(settings["fitness"], list) else [settings["fitness"]]
    wanted = divisors if divisors and names[0] == "combined" else {name: 1.0 for name in terms if name == names[0]}
    rows = [e for _, e in read_evaluations(folder) if not e.has_failed]
    if not wanted or any(term not in e.values for e in rows for term in wanted):
        return {}
    return {e.mask: sum(e.values[term] / divisor for term, divisor in wanted.items()) for e in rows}


def plot_lineage(ax: Axes, ancestors: list[Ancestor], fitness: str) -> None:
    """Draws each ancestor by generation and fitness, and a line from each parent to its child in its operator's colour.

    Where no fitness is recorded the ancestors stand below each other.

    Args:
        ax: The axes to draw on.
        ancestors: The winner first.
        fitness: Name of the fitness.
    """
    known = all(each.fitness is not None for each in ancestors)
    heights = [-i if each.fitness is None or not known else each.fitness for i, each in enumerate(ancestors)]
    place = {each.mask: (each.gen, height) for each, height in zip(ancestors, heights, strict=True)}
    operators = list(dict.fromkeys(each.operator for each in reversed(ancestors) if each.parents))
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(operators)}
    for each in ancestors:
        for i, parent in enumerate(each.parents):
            if parent in place:
                line = zip(place[parent], place[each.mask], strict=True)
                ax.plot(*line, color=colors[each.operator], linestyle=":" if i else "-", linewidth=1.5, zorder=1)
    points = list(place.values())
    x, y = (list(each) for each in zip(*points, strict=True))
    ax.scatter(x, y, s=26, color=[colors.get(each.operator, GREY) for each in ancestors], zorder=2)
    ax.scatter(x[:1], y[:1], s=140, marker="*", color=VERMILLION, edgecolors="black", linewidths=0.6, zorder=3)
    handles = [Line2D([], [], color=color, marker="o", markersize=5, label=name) for name, color in colors.items()]
    handles.append(Line2D([], [], color=GREY, linestyle="", marker="o", markersize=5, label="first generation"))
    handles.append(Line2D([], [], color=VERMILLION, linestyle="", marker="*", markersize=11, label="winner"))
    handles += [Line2D([], [], color=GREY, linestyle=":", label="second parent")] * any(len(e.parents) > 1 for e in ancestors)
    ax.legend(handles=handles, fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    ax.set_xlabel("generation")
    ax.set_ylabel(label_of(fitness.partition(",")[0]) if known else "ancestors of the winner")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_yticks([]) if not known else ax.grid(alpha=0.3)
