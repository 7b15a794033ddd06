"""Statistics and text tables of a comparison: data frames in, data frames and Markdown out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from evoprune.errors import InputError
from evoprune.files import require_own, write_atomically

COLUMNS = (
    "method", "data", "model", "sparsity", "seed", "survivors", "test_accuracy", "search_epochs", "total_epochs",
    "multiply_adds", "seconds", "test_loss", "validation_accuracy", "validation_loss", "budget", "note",
)  # fmt: skip
# of the tables beside cells.csv
LAYERS = ("method", "data", "model", "sparsity", "seed", "budget", "layer", "survivors", "size")
OVERLAPS = ("data", "model", "sparsity", "seed", "a", "b", "iou", "expected")
MOVEMENT = (
    "method", "data", "model", "sparsity", "seed", "budget", "movement", "epoch", "low", "high", "kept", "removed", "cut",
)  # fmt: skip
TEXT = ("method", "data", "model", "note")
COSTS = ("search_epochs", "total_epochs", "multiply_adds", "survivors", "seconds")
ORDER = (
    "dense", "lottery-ticket", "dissipate", "combine", "evolve-dissipated", "evolve", "random-search", "kstarts", "snip",
    "grasp", "synflow", "magnitude", "erk", "random",
)  # fmt: skip
OURS = ("dissipate", "combine", "kstarts", "evolve", "evolve-dissipated", "evolve-fixed", "evolve-dissipated-fixed")
CONFIDENCE = 0.95
BAND = "95 % t-interval of the mean over seeds"
_DECIMALS = 12  # differences of equal accuracies are equal only up to rounding
_MISSING = "—"


def ordered(methods: Iterable[str]) -> list[str]:
    """Returns the distinct methods in the fixed order; those it does not name follow, alphabetically."""
    return sorted(set(methods), key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def read_frame(path: Path, columns: Sequence[str], text: Sequence[str]) -> pd.DataFrame:
    """Reads a CSV table of a comparison.

    Args:
        path: The file.
        columns: The columns it has to have; others are kept.
        text: Which of them are text; the rest are numbers, NaN where empty or infinite.

    Raises:
        InputError: The file cannot be read, lacks columns, or holds text where numbers belong.
    """
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"cannot read {path}: {error}; expected a CSV file of a comparison.") from error
    missing = [name for name in columns if name not in frame]
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(columns)}.")
    for name in columns:
        if name in text:
            frame[name] = frame[name].fillna("")
            continue
        try:
            frame[name] = pd.to_numeric(frame[name]).astype(float).replace([math.inf, -math.inf], math.nan)
        except ValueError as error:
            raise InputError(f"{path}: column {name} holds {error}; expected numbers.") from error
    return frame


def read_cells(path: Path) -> pd.DataFrame:
    """Reads ``cells.csv``: a row for each method, data, model, sparsity, seed and budget.

    Raises:
        InputError: The file cannot be read, lacks columns, holds no row, or the same cell twice.
    """
    cells = read_frame(path, COLUMNS, TEXT)
    if cells.empty:
        raise InputError(f"{path} holds no cell; run the comparison first.")
    key = ["method", "data", "model", "sparsity", "seed", "budget"]
    unkeyed = cells[cells[key[:-1]].isna().any(axis=1) | (cells[list(TEXT[:3])] == "").any(axis=1)]
    if not unkeyed.empty:
        raise InputError(f"{path}: row {unkeyed.index[0] + 2} has an empty {' or '.join(key[:-1])}; fill it in.")
    twice = cells[cells.duplicated(key)]
    if not twice.empty:
        raise InputError(f"{path} holds a cell twice: {twice.iloc[0][key].to_dict()}; remove one of the rows.")
    return cells


def metric(cells: pd.DataFrame) -> str:
    """Returns what the cells of one (data, model) group are judged by.

    It is ``test_accuracy`` (larger is better), or ``test_loss`` (smaller is better) where no cell has an accuracy.
    """
    return "test_loss" if cells["test_accuracy"].isna().all() and cells["test_loss"].notna().any() else "test_accuracy"


def half_width(values: Sequence[float] | np.ndarray[Any, Any]) -> float:
    """Returns the half-width of the 95 % t-interval of the mean of finite values; NaN for fewer than two."""
    n = len(values)
    if n < 2:
        return math.nan
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def summarise(cells: pd.DataFrame) -> pd.DataFrame:
    """Summarises the cells over seeds.

    Returns:
        A row for each (data, model, budget, sparsity, method), with ``metric`` (its name), ``n`` (cells that have it),
        ``failed`` (cells that have not), ``mean``, ``half`` (half-width of the 95 % t-interval of the mean; NaN for n = 1)
        and ``std`` over the n cells, and the means of search_epochs, total_epochs, multiply_adds, survivors and seconds over
        all cells: the failed ones were paid for too.
    """
    rows = []
    for _, group in cells.groupby(["data", "model"]):
        name = metric(group)
        for _, part in group.groupby(["budget", "sparsity", "method"], dropna=False):
            values = part[name].dropna().to_numpy(dtype=float)
            row = part.iloc[0][["data", "model", "budget", "sparsity", "method"]].to_dict()
            row |= {"metric": name, "n": len(values), "failed": len(part) - len(values)}
            row |= {"mean": values.mean() if len(values) else math.nan, "half": half_width(values)}
            row |= {"std": values.std(ddof=1) if len(values) > 1 else math.nan}
            rows.append(row | {cost: part[cost].mean() for cost in COSTS})
    rank = {name: i for i, name in enumerate(ordered(cells["method"]))}
    summary = pd.DataFrame(rows).assign(rank=lambda frame: frame["method"].map(rank))
    by = ["data", "model", "budget", "sparsity", "rank"]
    return summary.sort_values(by, na_position="first", ignore_index=True).drop(columns="rank")


def compare_pairs(cells: pd.DataFrame, of: Iterable[str], against: Iterable[str]) -> pd.DataFrame:
    """Compares methods in pairs, seed by seed.

    The paired t-test is the default at five seeds. Wilcoxon's signed-rank test assumes less, but its smallest two-sided p at
    n = 5 is 2 / 2**5 = 0.0625: it can never reject at 5 %, however clear the difference. Both are given; the t-test leans on
    differences that are about normal, which five of them cannot show.

    Each p is corrected by Holm's method over all pairs of this call, the t-tests and the Wilcoxon tests as one family each.
    A pair counts once, whichever way round. ``dense`` is compared at every sparsity of its data, model and budget.

    Args:
        cells: The cells.
        of: Methods a.
        against: Methods b.

    Returns:
        A row for each (data, model, budget, sparsity, a, b) that both have cells in: ``metric``, ``n`` (seeds for which both
        have it; no others are used), ``difference`` (mean of a - b), ``low`` and ``high`` (its 95 % t-interval), ``p_t``,
        ``p_t_holm``, ``p_wilcoxon`` and ``p_wilcoxon_holm``. With n < 2 every p is NaN and counts in no family, and so is a
        t-test's p where all differences are the same, but not zero. Where all are zero, p = 1.
    """
    pairs: list[tuple[str, str]] = []
    for a, b in itertools.product(of, against):
        if a != b and (b, a) not in pairs:
            pairs.append((a, b))
    rows = []
    for (data, model), group in cells.groupby(["data", "model"]):
        name = metric(group)
        for budget, part in group.groupby("budget", dropna=False):
            dense = part[part["method"] == "dense"]
            for sparsity, at in part[part["method"] != "dense"].groupby("sparsity"):
                values = {m: c.set_index("seed")[name].dropna() for m, c in pd.concat([dense, at]).groupby("method")}
                key = {"data": data, "model": model, "budget": budget, "sparsity": sparsity}
                both = [(a, b) for a, b in pairs if a in values and b in values]
                rows += [{**key, "a": a, "b": b, "metric": name} | _paired(values[a], values[b]) for a, b in both]
    columns = ["data", "model", "budget", "sparsity", "a", "b", "metric", "n", "difference", "low", "high"]
    frame = pd.DataFrame(rows, columns=[*columns, "p_t", "p_wilcoxon"])
    for test in ("p_t", "p_wilcoxon"):
        known = frame[test].notna()
        frame[f"{test}_holm"] = math.nan
        if known.any():
            frame.loc[known, f"{test}_holm"] = multipletests(frame.loc[known, test], method="holm")[1]
    return frame[[*columns, "p_t", "p_t_holm", "p_wilcoxon", "p_wilcoxon_holm"]]


def dense_epoch(cells: pd.DataFrame) -> float | None:
    """Returns the multiply-adds of one epoch of dense training of one (data, model) group.

    They come from the dense cells of the main table, else from those of equal cost; None without any.
    """
    dense = cells[(cells["method"] == "dense") & cells["multiply_adds"].notna() & (cells["total_epochs"] > 0)]
    if dense["budget"].isna().any():
        dense = dense[dense["budget"].isna()]
    return None if dense.empty else float(dense["multiply_adds"].sum() / dense["total_epochs"].sum())


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
    """Returns what ``compare_pairs`` found as Markdown, with a caption; the pairs are one family of tests."""
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
    what = "percentage points of test accuracy" if is_accuracy else "test loss (negative: a is better)"
    caption = (
        f"Pairs: mean difference in {what}, over the n seeds that both have, with its 95 % t-interval (not corrected). p: "
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
        budgets = sorted(group["budget"].dropna().unique())
        for budget in [None, *budgets]:
            part = group[group["budget"].isna() if budget is None else group["budget"] == budget]
            if part.empty:
                continue
            lines.append("### Main table" if budget is None else f"### Equal cost: {budget:g} epochs of dense training")
            lines += [accuracy_table(part), cost_table(part, dense_epoch(group))]
            pairs = compare_pairs(part, OURS, ordered(part["method"]))
            if not pairs.empty:
                lines.append(pairs_table(pairs))
    path = folder / "table.md"
    write_atomically(path, ("\n\n".join(lines) + "\n").encode())
    return path


def _paired(a: pd.Series[float], b: pd.Series[float]) -> dict[str, float]:
    seeds = a.index.intersection(b.index)
    x, y = a.loc[seeds].to_numpy(dtype=float), b.loc[seeds].to_numpy(dtype=float)
    differences = np.round(x - y, _DECIMALS)
    n, mean, half = len(seeds), differences.mean() if len(seeds) else math.nan, half_width(differences)
    p_t = p_wilcoxon = math.nan
    if n >= 2 and not differences.any():
        p_t = p_wilcoxon = 1.0
    elif n >= 2:
        p_wilcoxon = float(stats.wilcoxon(differences).pvalue)
        if np.ptp(differences) > 0:
            p_t = float(stats.ttest_rel(x, y).pvalue)
    return {"n": n, "difference": mean, "low": mean - half, "high": mean + half, "p_t": p_t, "p_wilcoxon": p_wilcoxon}


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
