"""The chapter of a comparison: means and spreads, figures, cells and failures, from the tables in its folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from evoprune.comparison.course import read_settings
from evoprune.comparison.frames import read_cells, read_table
from evoprune.comparison.statistics import OURS, compare_pairs, dense_epoch, metric, ordered, summarise
from evoprune.figures.comparisons import COMPARE_FIGURES
from evoprune.figures.of_comparison.panels import groups_of
from evoprune.report import command
from evoprune.report.blocks import (
    MISSING,
    Block,
    Cell,
    Chapter,
    Code,
    Section,
    Table,
    Text,
    counted,
    facts_of,
    is_number,
    number,
    percent,
    sparsity,
    words,
)
from evoprune.report.size import Budget, failure, section
from evoprune.runs.settings import flatten

CAPTIONS = {
    "accuracy": "Quality against sparsity.",
    "cost": "Quality against cost, search included.",
    "layers": "Densities of the layers.",
    "overlap": "Overlap of the masks of each two methods, beside that of random masks.",
    "movement": "Movement of the weights at each removal.",
}
# Rows of a table at most; the files have them all.
MOST = 500


def chapter(folder: Path, budget: Budget) -> Chapter:
    """Returns the chapter of a comparison, finished or not.

    Args:
        folder: Its folder.
        budget: The room for figures.

    Raises:
        InputError: Its settings cannot be read.
    """
    settings = read_settings(folder) or {}
    title = "Comparison"
    sentence, notes = f"The comparison in {folder.name} has no cell yet.", []
    tiles: list[tuple[str, str, str]] = []
    try:
        cells = read_cells(folder / "cells.csv") if (folder / "cells.csv").exists() else None
    except Exception as error:  # noqa: BLE001 - damaged tables do not lose the page
        cells, sentence = None, "The cells of this comparison cannot be shown."
        notes = [failure("They", error)]
    makers: dict[str, Any] = {}
    if cells is not None:
        title = f"Comparison on {', '.join(dict.fromkeys(cells['data']))}"
        sentence, notes, tiles = _summary(cells, settings)
        for group in groups_of(cells):
            own = cells[(cells["data"] == group[0]) & (cells["model"] == group[1])]
            name = ", ".join(group)
            makers[f"Results: {name}"] = functools.partial(_results, own)
            makers[f"Figures: {name}"] = functools.partial(_figures, folder, group, budget)
            makers[f"Pairs: {name}"] = functools.partial(_pairs, own)
        makers["Failures and notes"] = functools.partial(_failures, cells)
        makers["Cells"] = functools.partial(_cells, cells)
    makers["Settings"] = functools.partial(_settings, settings)
    makers["Do it again"] = functools.partial(_again, folder, settings)
    made = [section(name, make) for name, make in makers.items()]
    sections: list[Section] = [each for each in made if each is not None]
    return Chapter(title, str(folder), sentence, notes, tiles, sections)


def _summary(cells: pd.DataFrame, settings: dict[str, Any]) -> tuple[str, list[Text], list[tuple[str, str, str]]]:
    planned, done = len(settings.get("cells", ())), len(cells)
    seeds, methods = cells["seed"].nunique(), cells["method"].nunique()
    sparse = cells[cells["method"] != "dense"]
    sentence = (
        f"{counted(methods, 'method')} at {counted(sparse['sparsity'].nunique(), 'sparsity', 'sparsities')} over "
        f"{counted(seeds, 'seed')}{_best(cells)}."
    )
    failed = int(sum(part[metric(part)].isna().sum() for _, part in cells.groupby(["data", "model"])))
    text = (
        "Means over seeds; ± is the half-width of the 95 % t-interval of the mean. Means whose intervals overlap may be equal."
    )
    notes = [Text("One seed: no spread is known." if seeds < 2 else text)]
    if planned > done:
        notes.append(Text(f"{planned - done} of {counted(planned, 'cell')} are not done yet.", is_warning=True))
    tiles = [
        ("Cells", f"{done:,}", f"{failed} failed" if failed else "none failed"),
        ("Methods", f"{methods}", ""),
        ("Seeds", f"{seeds}", "intervals need at least two" if seeds < 2 else ""),
        ("Sparsities", ", ".join(f"{100 * s:.6g} %" for s in sorted(sparse["sparsity"].unique())) or MISSING, ""),
    ]
    return sentence, notes, tiles


def _best(cells: pd.DataFrame) -> str:
    """Returns the best mean of the sparse methods at the highest sparsity, of the first group, in words."""
    data, model = groups_of(cells)[0]
    own = cells[(cells["data"] == data) & (cells["model"] == model)]
    name, rows = metric(own), summarise(own)
    rows = rows[(rows["method"] != "dense") & rows["budget"].isna() & rows["mean"].notna()]
    if rows.empty:
        return ""
    rows = rows[rows["sparsity"] == rows["sparsity"].max()]
    row = rows.loc[rows["mean"].idxmax() if name == "test_accuracy" else rows["mean"].idxmin()]
    value = _mean(row["mean"], row["half"], name)
    return (
        f"; at {100 * row['sparsity']:.6g} %, {row['method']} has the best mean: {value.text} {name.replace('_', ' ')} ({data})"
    )


def _mean(mean: float, half: float, name: str) -> Cell:
    scale, digits, unit = (100.0, ".2f", " %") if name == "test_accuracy" else (1.0, ".4g", "")
    if not is_number(mean):
        return Cell("failed")
    spread = f" ± {scale * half:{digits}}" if is_number(half) else ""
    return Cell(f"{scale * mean:{digits}}{spread}{unit}", repr(scale * float(mean)))


def _results(cells: pd.DataFrame) -> Iterator[Block]:
    name, epoch = metric(cells), dense_epoch(cells)
    for budget, part in _by_budget(cells):
        is_main = pd.isna(budget)
        what = "Main table" if is_main else f"Equal cost, {float(str(budget)):g} epochs of dense training"
        cost = "epochs of dense training" if epoch else "billions of multiply-adds"
        head = [
            "method",
            "sparsity",
            name.replace("_", " "),
            "standard deviation",
            "seeds",
            "failed",
            f"cost ({cost})",
            "epochs",
            "seconds",
        ]
        rows = [
            [
                words(row.method), sparsity(row.sparsity), _mean(row.mean, row.half, name),
                percent(row.std) if name == "test_accuracy" else number(row.std), number(int(row.n)), number(int(row.failed)),
                number(row.multiply_adds / (epoch or 1e9), 3), number(row.total_epochs, 3), number(row.seconds, 3),
            ]
            for row in _rows(summarise(part))
        ]  # fmt: skip
        yield Table(f"{what}: mean ± half-width of the 95 % t-interval over seeds, and costs with the search.", head, rows)


def _by_budget(cells: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """Returns the cells of the main table, and then those of each budget."""
    return sorted(cells.groupby("budget", dropna=False), key=lambda pair: -1.0 if pd.isna(pair[0]) else float(str(pair[0])))


def _rows(frame: pd.DataFrame) -> list[Any]:
    """Returns the first rows of a table, with a column's value as an attribute."""
    return list(frame.itertuples())[:MOST]


def _cut(frame: pd.DataFrame) -> str:
    """Returns the words that say how many rows of a table :func:`_rows` leaves out; none if it leaves out none."""
    return "" if len(frame) <= MOST else f" The first {MOST} of {len(frame):,} rows; the files of the comparison have them all."


def _figures(folder: Path, group: tuple[str, str], budget: Budget) -> Iterator[Block]:
    for name, figure in COMPARE_FIGURES.items():
        table = folder / figure.table
        if table.exists() and group in groups_of(read_table(table, ("data", "model"), ("data", "model"))):
            yield budget.draw(name, CAPTIONS.get(name, name), functools.partial(figure, folder, group))


def _pairs(cells: pd.DataFrame) -> Iterator[Block]:
    for budget, part in _by_budget(cells):
        pairs = compare_pairs(part, OURS, ordered(part["method"]))
        pairs = pairs[pairs["n"] > 1]
        if pairs.empty:
            continue
        rows = [
            [
                sparsity(row.sparsity), words(row.a), words(row.b), number(int(row.n)),
                *(percent(v) if row.metric == "test_accuracy" else number(v) for v in (row.difference, row.low, row.high)),
                number(row.p_t_holm, 3), number(row.p_wilcoxon_holm, 3),
            ]
            for row in _rows(pairs)
        ]  # fmt: skip
        head = ["sparsity", "a", "b", "seeds", "a − b", "low", "high", "p of t, Holm", "p of Wilcoxon, Holm"]
        where = "main table" if pd.isna(budget) else f"equal cost, {float(str(budget)):g} epochs"
        caption = (
            f"Mean differences over the seeds that both have ({where}), with the 95 % t-interval; p is corrected by Holm's "
            f"method over the tests of this table.{_cut(pairs)}"
        )
        yield Table(caption, head, rows, f"Table of {counted(len(pairs), 'pair')}, {where}")


def _failures(cells: pd.DataFrame) -> Iterator[Block]:
    missing = pd.concat([part[part[metric(part)].isna()] for _, part in cells.groupby(["data", "model"])])
    noted = cells[(cells["note"] != "") | cells.index.isin(missing.index)]
    if noted.empty:
        yield Text(f"None of {counted(len(cells), 'cell')} failed.")
        return
    rows = [
        [words(row.method), words(row.data), words(row.model), sparsity(row.sparsity), number(int(row.seed)),
         Cell("failed" if row.Index in missing.index else "note"), words(row.note or "no reason is recorded")]
        for row in _rows(noted)
    ]  # fmt: skip
    yield Table(
        f"Cells that failed, or have a note.{_cut(noted)}",
        ["method", "data", "model", "sparsity", "seed", "status", "reason"],
        rows,
    )


def _cells(cells: pd.DataFrame) -> Iterator[Block]:
    head = [
        "method",
        "data",
        "model",
        "sparsity",
        "seed",
        "budget",
        "test accuracy",
        "test loss",
        "survivors",
        "epochs",
        "seconds",
    ]
    rows = [
        [
            words(row.method), words(row.data), words(row.model), sparsity(row.sparsity), number(int(row.seed)),
            number(row.budget), percent(row.test_accuracy), number(row.test_loss), number(row.survivors),
            number(row.total_epochs), number(row.seconds, 3),
        ]
        for row in _rows(cells)
    ]  # fmt: skip
    yield Table(f"The cells.{_cut(cells)}", head, rows, f"Table of {counted(len(rows), 'cell')}")


def _settings(settings: dict[str, Any]) -> Iterator[Block]:
    if not settings:
        yield Text("There is no compare.json: these tables were not written by evoprune compare.")
        return
    yield facts_of(flatten(settings["settings"]))
    methods = {name: json.dumps(options) for name, options in settings.get("methods", {}).items()}
    rows = [[words(name), Cell(text)] for name, text in methods.items()]
    yield Table("Options of the methods.", ["method", "options"], rows, f"Options of {counted(len(rows), 'method')}")


def _again(folder: Path, settings: dict[str, Any]) -> Iterator[Block]:
    found = command.comparison_command(settings, f"{folder.name}-again") if settings else ""
    if found:
        yield Code(found)
    else:
        yield Text("No single command line says this comparison: several commands or a program have added to it.")
    yield Text("This page is written again by:")
    yield Code(f"evoprune report {folder.name}")
