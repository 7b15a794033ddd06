"""Statistics of a comparison: means, intervals, paired differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from evoprune.comparison.methods import names

COSTS = ("search_epochs", "total_epochs", "multiply_adds", "survivors", "seconds")
OURS = ("dissipate", "combine", "kstarts", "evolve", "evolve-dissipated", "evolve-fixed", "evolve-dissipated-fixed")
CONFIDENCE = 0.95
BAND = "95 % t-interval of the mean over seeds"
_DECIMALS = 12  # differences of equal accuracies are equal only up to rounding


def ordered(methods: Iterable[str]) -> list[str]:
    """Returns the distinct methods in the order of the registry; others, such as controls, follow alphabetically."""
    places = {name: i for i, name in enumerate(names())}
    return sorted(set(methods), key=lambda name: (places.get(name, len(places)), name))


def metric(cells: pd.DataFrame) -> str:
    """Returns the name of the column by which the cells of one (data, model) group are judged.

    It is ``test_accuracy`` (larger is better), or ``test_loss`` (smaller is better) if no cell has an accuracy.
    """
    return "test_loss" if cells["test_accuracy"].isna().all() and cells["test_loss"].notna().any() else "test_accuracy"


def half_width(values: Sequence[float] | np.ndarray[Any, Any]) -> float:
    """Returns the half-width of the 95 % t-interval of the mean of finite values; NaN for fewer than two."""
    n = len(values)
    if n < 2:
        return math.nan
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def summarise(cells: pd.DataFrame, of: str | None = None) -> pd.DataFrame:
    """Summarises the cells over seeds.

    Args:
        cells: The cells.
        of: The column; None: the one by which they are judged, see :func:`metric`.

    Returns:
        A row for each (data, model, budget, sparsity, method), with ``metric`` (its name), ``n`` (cells that have it),
        ``failed`` (cells that have not), ``mean``, ``half`` (half-width of the 95 % t-interval of the mean; NaN for n = 1)
        and ``std`` over the n cells, and the means of search_epochs, total_epochs, multiply_adds, survivors and seconds over
        all cells: the failed ones were paid for too.
    """
    rows = []
    for _, group in cells.groupby(["data", "model"]):
        name = of or metric(group)
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
    A pair counts once, in whichever order. ``dense`` is compared at every sparsity of its data, model and budget.

    Args:
        cells: The cells.
        of: Methods a.
        against: Methods b.

    Returns:
        A row for each (data, model, budget, sparsity, a, b) that both have cells in: ``metric``, ``n`` (seeds for which both
        have it; no others are used), ``difference`` (mean of a - b), ``low`` and ``high`` (its 95 % t-interval), ``p_t``,
        ``p_t_holm``, ``p_wilcoxon`` and ``p_wilcoxon_holm``. With n < 2 every p is NaN and counts in no family, and so is a
        t-test's p if all differences are the same, but not zero. If all are zero, p = 1.
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

    They come from the dense cells of the main table, otherwise from those of equal cost; None if there are no dense cells, or
    they multiply nothing.
    """
    dense = cells[(cells["method"] == "dense") & cells["multiply_adds"].notna() & (cells["total_epochs"] > 0)]
    if dense["budget"].isna().any():
        dense = dense[dense["budget"].isna()]
    return None if dense.empty else float(dense["multiply_adds"].sum() / dense["total_epochs"].sum()) or None


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
