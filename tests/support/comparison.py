"""A synthetic comparison: CSV files with numbers as a real one has them."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from evoprune.comparison.methods import VARIANTS as REGISTERED
from evoprune.masks.overlap import expected_iou

SIZES = {"fc1": 235_200, "fc2": 30_000, "fc3": 1_000}
SPARSITIES = (0.9, 0.95, 0.98, 0.99)
METHODS = (*itertools.islice(REGISTERED, 14), "kstarts-uniform")
_OTHERS = (2.2, 2.8, 4.6, 7.6)
ERRORS = {  # in percent, at each sparsity
    "lottery-ticket": (1.8, 2.0, 2.5, 3.6), "dissipate": (1.6, 1.7, 1.9, 2.6), "combine": (1.7, 1.9, 2.3, 3.1),
    "kstarts": (2.4, 3.0, 5.2, 9.0), "snip": (2.0, 2.5, 3.8, 6.3), "grasp": (2.3, 2.8, 4.5, 8.0),
    "synflow": (2.1, 2.6, 3.8, 5.9), "magnitude": (2.2, 2.9, 5.6, 20.0), "erk": (2.4, 3.1, 5.6, 9.4),
    "random": (3.1, 6.0, 51.0, 72.0), "evolve": (2.1, 2.7, 4.4, 7.4), "kstarts-uniform": (3.0, 5.8, 48.0, 70.0),
}  # fmt: skip
SEARCH = {"lottery-ticket": 15.0, "kstarts": 32.0, "combine": 35.0, "evolve": 200.0, "kstarts-uniform": 32.0}


def cells(methods: Sequence[str], seeds: int, budget: float | None = None) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for method in methods:
        for i, sparsity in enumerate((0.0,) if method == "dense" else SPARSITIES):
            for seed in range(seeds):
                error = (1.5 if method == "dense" else ERRORS.get(method, _OTHERS)[i]) * rng.lognormal(0, 0.06) / 100
                search = SEARCH.get(method, 0.0)
                cost = (15.0 if method == "dense" else search + 15 * (1 - sparsity) + 0.01) if budget is None else budget
                rows.append({
                    "method": method, "data": "mnist", "model": "lenet-300-100", "sparsity": sparsity, "seed": seed,
                    "survivors": round((1 - sparsity) * 266_200), "test_accuracy": 1 - error, "search_epochs": search,
                    "total_epochs": 15 + search if budget is None else budget, "multiply_adds": cost * 3e10,
                    "seconds": cost * 1.7,
                    "test_loss": 3 * error, "validation_accuracy": 1 - error, "validation_loss": 3 * error,
                    "budget": budget, "note": "",
                })  # fmt: skip
    return pd.DataFrame(rows)


def layers(methods: Sequence[str], seeds: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for m, method in enumerate(name for name in methods if name != "dense"):
        for sparsity in SPARSITIES:
            for seed in range(seeds):
                tilt = rng.normal(0.15 * m, 0.1)
                density = np.clip((1 - sparsity) * np.array([1 - 0.05 * tilt, 1 + 0.5 * tilt, 3 + 2 * tilt]), 0.001, 1)
                for (layer, size), d in zip(SIZES.items(), density, strict=True):
                    kept = 0 if method == "magnitude" and sparsity == 0.99 and layer == "fc3" else round(d * size)
                    rows.append((method, "mnist", "lenet-300-100", sparsity, seed, None, layer, kept, size))
    columns = ["method", "data", "model", "sparsity", "seed", "budget", "layer", "survivors", "size"]
    return pd.DataFrame(rows, columns=columns)


def overlaps(table: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = []
    for (sparsity, seed), part in table.groupby(["sparsity", "seed"]):
        counts = {name: own["survivors"].tolist() for name, own in part.groupby("method")}
        names = list(counts)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                expected = expected_iou(counts[a], counts[b], list(SIZES.values()))
                guided = a in ("dissipate", "lottery-ticket", "combine") and b in ("dissipate", "lottery-ticket", "magnitude")
                factor = rng.lognormal(1.6 if guided else 0.0, 0.02)
                rows.append(("mnist", "lenet-300-100", sparsity, seed, a, b, min(1.0, expected * factor), expected))
    return pd.DataFrame(rows, columns=["data", "model", "sparsity", "seed", "a", "b", "iou", "expected"])


def movement(seeds: int, epochs: int = 8) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = []
    edges = np.linspace(-4, 2, 41)
    for sparsity in SPARSITIES:
        for seed in range(seeds):
            alive = np.sort(rng.normal(-1, 0.7, 20_000))
            for epoch in range(1, epochs + 1):
                alive = np.sort(alive + rng.normal(0.1, 0.15, len(alive)))
                removed = len(alive) - round(20_000 * (1 - sparsity) ** (epoch / epochs))
                cut = alive[removed]
                gone, kept = np.histogram(alive[:removed], edges)[0], np.histogram(alive[removed:], edges)[0]
                key = ("dissipate", "mnist", "lenet-300-100", sparsity, seed, None, "absolute", epoch)
                bins = zip(edges[:-1], edges[1:], kept, gone, strict=True)
                rows += [(*key, low, high, k, g, cut) for low, high, k, g in bins]
                alive = alive[removed:]
    columns = ["method", "data", "model", "sparsity", "seed", "budget", "movement", "epoch", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "kept", "removed", "cut"])


def write(folder: Path, methods: Sequence[str] = METHODS, seeds: int = 5) -> None:
    main = cells(methods, seeds)
    failed = (main["method"] == "random") & (main["sparsity"] == 0.99) & (main["seed"] == 1)
    main.loc[failed, ["test_accuracy", "test_loss"]] = None
    main.loc[(main["method"] == "magnitude") & (main["sparsity"] == 0.99), "note"] = "fc3 has no survivors"
    equal = cells([name for name in methods if name != "evolve"], seeds, budget=50.0)
    pd.concat([main, equal]).to_csv(folder / "cells.csv", index=False)
    table = layers(methods, seeds)
    table.to_csv(folder / "layers.csv", index=False)
    overlaps(table).to_csv(folder / "overlaps.csv", index=False)
    movement(min(seeds, 2)).to_csv(folder / "movement.csv", index=False)
