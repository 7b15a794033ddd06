"""Tables of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evoprune.evaluation.evaluation import NO_BETTER_THAN_CHANCE, Evaluation
from evoprune.figures.of_run.confusion import read_confusion
from evoprune.figures.of_run.lineage import read_lineage
from evoprune.figures.of_run.reading import read_generations
from evoprune.report.blocks import Block, Cell, Table, Text, counted, number, percent, words
from evoprune.runs.evaluations import read_evaluations

# Rows of a table at most; the files have them all.
MOST = 300
# More rows than this are folded.
_FOLDED = 12


def evaluation_rows(folder: Path) -> list[tuple[int, Evaluation]]:
    """Returns the evaluations with their generations; none if there is no file.

    Raises:
        InputError: The file differs from the one that was written.
    """
    return read_evaluations(folder) if (folder / "evaluations.csv").exists() else []


def generations(folder: Path) -> Iterator[Table]:
    """Yields the generations, of long searches some of them, evenly spread."""
    if not (folder / "generations.csv").exists():
        return
    rows = read_generations(folder).to_dict("records")
    shown = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, MOST).round().astype(int))]
    head = ["generation", "new evaluations", "best", "mean", "standard deviation", "least", "diversity"]
    names = ("gen", "nevals", "best", "mean", "std", "min", "diversity")
    caption = "Fitness and diversity of the population" + (
        "." if len(shown) == len(rows) else f", {MOST} of {len(rows)} generations."
    )
    table = [[number(int(row[name]) if name in ("gen", "nevals") else row[name], 5) for name in names] for row in shown]
    yield Table(caption, head, table, f"Table of {counted(len(shown), 'generation')}")


def lineage(folder: Path) -> Iterator[Block]:
    """Yields the winner's ancestors, and how often each operator bred one of them."""
    found = read_lineage(folder)
    if not found:
        yield Text("The birth of the winner is not recorded.")
        return
    operators = Counter(each.operator for each in found if each.parents)
    by = ", ".join(f"{name} ({count})" for name, count in operators.most_common())
    first = sum(not each.parents for each in found)
    yield Text(
        f"The winner was bred in generation {found[0].gen}. {counted(len(found) - 1, 'ancestor')}, of which {first} "
        f"without recorded parents. Births by operator: {by or 'none'}."
    )
    rows = [
        [
            words(each.mask[:12]), number(each.gen), words(each.operator), number(each.fitness, 5),
            *(words(parent[:12]) for parent in (*each.parents, "", "")[:2]),
        ]
        for each in found[:MOST]
    ]  # fmt: skip
    summary = f"Table of {counted(len(rows), 'mask')}" if len(rows) > _FOLDED else ""
    yield Table(
        "The winner and its ancestors.", ["mask", "generation", "bred by", "fitness", "parent", "other parent"], rows, summary
    )


def layers(result: Mapping[str, Any]) -> Table:
    """Returns the survivors of each layer of the winner."""
    rows = [
        [words(name), number(int(kept)), number(int(size)), percent(kept / size if size else None, 2, bar=True)]
        for name, (kept, size) in list(result["layers"].items())[:MOST]
    ]
    return Table("Survivors of the winner.", ["layer", "survivors", "weights", "density"], rows)


def per_class(folder: Path) -> list[list[int]]:
    """Returns the test examples of each class (rows) with each prediction (columns)."""
    counts: list[list[int]] = read_confusion(folder).counts.tolist()
    return counts


def failures(folder: Path) -> Iterator[Block]:
    """Yields the evaluations that failed or were no better than chance, with their reasons."""
    rows = evaluation_rows(folder)
    wrong = [(gen, e) for gen, e in rows if e.has_failed or e.status == NO_BETTER_THAN_CHANCE]
    if not rows:
        yield Text("This method evaluates no masks.")
        return
    if not wrong:
        yield Text(f"None of {counted(len(rows), 'evaluation')} failed.")
        return
    by = ", ".join(f"{status} ({count})" for status, count in Counter(e.status for _, e in wrong).most_common())
    yield Text(f"{len(wrong):,} of {counted(len(rows), 'evaluation')}: {by}.")
    table = [[words(e.mask[:12]), number(gen), words(e.status), words(e.note), Cell(e.worker)] for gen, e in wrong[:MOST]]
    caption = "Masks that failed, or were no better than chance" + ("." if len(wrong) <= MOST else f"; the first {MOST}.")
    yield Table(caption, ["mask", "generation", "status", "reason", "worker"], table)
