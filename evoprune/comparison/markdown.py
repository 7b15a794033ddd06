"""The tables of a comparison as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from evoprune.comparison.frames import COLUMNS, read_cells
from evoprune.comparison.statistics import BAND, OURS, compare_pairs, dense_epoch, metric, ordered, summarise
from evoprune.errors import InputError
from evoprune.runs import sums
from evoprune.system.files import require_own, write_atomically

_MISSING = "—"


def accuracy_table(cells: pd.DataFrame) -> str:
    """Returns the metric of each method at each sparsity as Markdown, with a caption.

    Raises:
        InputError: The cells are of several (data, model, budget) groups.
    """
    group = _group(cells)
    summary = summarise(cells)
    name, seeds = metric(cells), int(summary["n"].max())
    is_accuracy = name == "test_accuracy"
    sparse = summary[summary["method"] != "dense"].groupby("sparsity")["mean"]
    best = dict(sparse.max() if is_accuracy else sparse.min())

    def text(row: Any) -> str:
        if not row.n:
            return "failed"
        value = _percent(row.mean, row.half) if is_accuracy else _significant(row.mean, row.half)
        few = f" (n = {row.n})" if row.n < seeds else ""
        return (f"**{value}**" if row.method != "dense" and row.mean == best.get(row.sparsity) else value) + few

    table = _by_sparsity(summary, text)
    caption = [
        f"{'Test accuracy in percent (larger is better)' if is_accuracy else 'Test loss (smaller is better)'}, {group}, by "
        f"sparsity: mean ± half-width of the {BAND}; {seeds} seed{'' if seeds == 1 else 's'} unless n is given"
        f"{', so without an interval' if seeds == 1 else ''}. Bold: the best mean of a column among the sparse methods, "
        f"whether or not it differs significantly.",
        *_failures(summary, name),
        *_notes(cells),
    ]
    return "\n\n".join(["\n".join(caption), table])


def metric_tables(cells: pd.DataFrame) -> list[str]:
    """Returns a table for each metric of the problem on the test set, as Markdown, with a caption.

    Raises:
        InputError: The cells are of several (data, model, budget) groups.
    """
    group = _group(cells)
    tables = []
    for name in _metrics(cells):
        summary = summarise(cells, name)
        seeds = int(summary["n"].max())

        def text(row: Any, seeds: int = seeds) -> str:
            few = f" (n = {row.n})" if 0 < row.n < seeds else ""
            return _significant(row.mean, row.half) + few if row.n else _MISSING

        caption = (
            f"{name.removeprefix('test_')} on the test set, {group}, by sparsity: mean ± half-width of the {BAND}; {seeds} "
            f"seed{'' if seeds == 1 else 's'} unless n is given."
        )
        tables.append(f"{caption}\n\n{_by_sparsity(summary, text)}")
    return tables


def _metrics(cells: pd.DataFrame) -> list[str]:
    """Returns the columns of the problem's metrics of which there are values."""
    others = [str(name) for name in cells.columns if str(name).startswith("test_") and name not in COLUMNS]
    return [name for name in others if cells[name].notna().any()]


def cost_table(cells: pd.DataFrame, epoch: float | None = None) -> str:
    """Returns the costs of each method as Markdown, with a caption.

    Args:
        cells: The cells of one (data, model, budget) group.
        epoch: Multiply-adds of one epoch of dense training; None: from the group's dense cells, if there are any.

    Raises:
        InputError: The cells are of several (data, model, budget) groups.
    """
    group = _group(cells)
    epoch = epoch or dense_epoch(cells)
    summary = summarise(cells)
    sparsities = sorted(summary.loc[summary["method"] != "dense", "sparsity"].unique())
    unit = "1e9" if epoch is None else "epochs of dense training"
    scales = {"search_epochs": 1.0, "total_epochs": 1.0, "multiply_adds": epoch or 1e9, "seconds": 1.0}
    heads = ["search epochs", "total epochs", f"multiply-adds ({unit})", "seconds"]
    rows = []
    for method in ordered(summary["method"]):
        own = summary[summary["method"] == method].set_index("sparsity")
        at = [own.loc[s] if s in own.index else None for s in ([*own.index] if method == "dense" else sparsities)]
        texts = [[_MISSING if row is None else _cost(row[name] / scale) for row in at] for name, scale in scales.items()]
        rows.append([method, *(values[0] if len(set(values)) == 1 else " / ".join(values) for values in texts)])
    listed = " / ".join(_sparsity(s) for s in sparsities)
    caption = f"Costs, {group}: means over seeds, failed cells included; search is part of the total. "
    caption += f"Where a cost depends on the sparsity, it is given at {listed}. "
    caption += "Seconds depend on machine and engine; multiply-adds do not."
    return f"{caption}\n\n{_markdown(pd.DataFrame(rows, columns=['method', *heads]))}"


def pairs_table(pairs: pd.DataFrame) -> str:
    """Returns the findings of ``compare_pairs`` as Markdown, with a caption; the pairs are one family of tests."""
    is_accuracy = bool((pairs["metric"] == "test_accuracy").all())
    scale = 100.0 if is_accuracy else 1.0

    def difference(row: Any) -> str:
        if not row.n:
            return _MISSING
        signs = ".2f" if is_accuracy else ".4g"
        interval = _MISSING if math.isnan(row.low) else f"{scale * row.low:+{signs}} to {scale * row.high:+{signs}}"
        return f"{scale * row.difference:+{signs}} ({interval})"

    heads = ["sparsity", "a", "b", "n", "a − b (interval)", "p t", "p t, Holm", "p Wilcoxon", "p Wilcoxon, Holm"]
    tests = ["p_t", "p_t_holm", "p_wilcoxon", "p_wilcoxon_holm"]
    rows = [
        [_sparsity(row.sparsity), row.a, row.b, str(row.n), difference(row), *(_p(getattr(row, test)) for test in tests)]
        for row in pairs.itertuples()
    ]
    measure = "percentage points of test accuracy" if is_accuracy else "test loss (negative: a is better)"
    caption = (
        f"Pairs: mean difference in {measure}, over the n seeds that both have, with its 95 % t-interval (not corrected). p: "
        f"two-sided paired t-test and Wilcoxon's signed-rank test, as they are and corrected by Holm over the "
        f"{pairs['p_t'].notna().sum()} and {pairs['p_wilcoxon'].notna().sum()} tests of this table. With 5 seeds Wilcoxon's p "
        f"cannot be below 0.0625."
    )
    return f"{caption}\n\n{_markdown(pd.DataFrame(rows, columns=heads))}"


def write_tables(folder: Path) -> Path:
    """Writes ``table.md`` from ``cells.csv``: for each (data, model) the main table, then those of equal cost.

    Returns:
        The path of the file.

    Raises:
        InputError: ``cells.csv`` cannot be read or used.
    """
    require_own(folder)
    lines = ["# Comparison"]
    for (data, model), group in read_cells(folder / "cells.csv").groupby(["data", "model"]):
        lines.append(f"## {data}, {model}")
        if _shares_w0(folder, str(data), str(model)):
            lines.append("W0 is the same for every seed, so intervals do not contain the spread over initial weights.")
        budgets = sorted(group["budget"].dropna().unique())
        for budget in [None, *budgets]:
            part = group[group["budget"].isna() if budget is None else group["budget"] == budget]
            if part.empty:
                continue
            lines.append("### Main table" if budget is None else f"### Equal cost: {budget:g} epochs of dense training")
            lines += [accuracy_table(part), *metric_tables(part), cost_table(part, dense_epoch(group))]
            pairs = compare_pairs(part, OURS, ordered(part["method"]))
            if not pairs.empty:
                lines.append(pairs_table(pairs))
    path = folder / "table.md"
    write_atomically(path, ("\n\n".join(lines) + "\n").encode())
    return path


def _shares_w0(folder: Path, data: str, model: str) -> bool:
    """Tells whether the user's own problems have the same initial weights for several seeds, as a given module has."""
    problems = (sums.read_sealed(folder / "compare.json") or {}).get("problems", ())
    weights = [facts["identity"]["weights"] for *names, _, facts in problems if names == [data, model]]
    return len(weights) > 1 and len(set(weights)) == 1


def _group(cells: pd.DataFrame) -> str:
    groups = cells[["data", "model", "budget"]].drop_duplicates()
    if len(groups) != 1:
        raise InputError(f"a table is of one data, model and budget; got {groups.to_dict('records')}; select one of them.")
    return f"{groups['data'].iloc[0]}, {groups['model'].iloc[0]}"


def _by_sparsity(summary: pd.DataFrame, text: Callable[[Any], str]) -> str:
    sparsities = sorted(summary["sparsity"].unique())
    cells = {(row.method, row.sparsity): text(row) for row in summary.itertuples()}
    methods = ordered(summary["method"])
    rows = [[method, *(cells.get((method, s), _MISSING) for s in sparsities)] for method in methods]
    return _markdown(pd.DataFrame(rows, columns=["method", *map(_sparsity, sparsities)]))


def _markdown(frame: pd.DataFrame) -> str:
    return str(frame.to_markdown(index=False, disable_numparse=True))


def _failures(summary: pd.DataFrame, name: str) -> list[str]:
    failed = summary[summary["failed"] > 0]
    if failed.empty:
        return []
    rows: list[dict[Hashable, Any]] = failed.to_dict("records")
    texts = [f"{row['method']} at {_sparsity(row['sparsity'])} ({row['failed']} of {row['n'] + row['failed']})" for row in rows]
    return [f"Failed cells, without a {name.replace('_', ' ')} and left out: {', '.join(texts)}."]


def _notes(cells: pd.DataFrame) -> list[str]:
    noted = cells[cells["note"] != ""]
    if noted.empty:
        return []
    counts = noted.groupby(["method", "sparsity", "note"], as_index=False).size()
    texts = [f"{row.method} at {_sparsity(row.sparsity)} ({row[-1]}): {row.note}" for row in counts.itertuples(index=False)]
    return [f"Notes (number of cells): {'; '.join(texts)}."]


def _sparsity(value: Any) -> str:
    return f"{100 * value:.6g} %"


def _percent(mean: float, half: float) -> str:
    return f"{100 * mean:.2f}" + ("" if math.isnan(half) else f" ± {100 * half:.2f}")


def _significant(mean: float, half: float) -> str:
    decimals = max(0, 3 - math.floor(math.log10(abs(mean)))) if mean else 4
    return f"{mean:.{decimals}f}" + ("" if math.isnan(half) else f" ± {half:.{decimals}f}")


def _cost(value: float) -> str:
    if math.isnan(value):
        return _MISSING
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _p(value: float) -> str:
    if math.isnan(value):
        return _MISSING
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
