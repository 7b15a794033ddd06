"""Examples on their way to the places of blocks, where a block's examples lie side by side, and back."""

from __future__ import annotations

from typing import Any

from evoprune.engines.sparse.kernels.compiled import compiled
from evoprune.engines.sparse.kernels.vectors import load, peek, store, transposed


@compiled
def stage(rows: Any, n: int, source: Any, places: Any, target: Any, base: int, batch: int, block_size: int, eight: Any) -> None:
    """Copies examples to blocks of the batch, whose examples lie side by side; the last one fills the rest.

    Args:
        rows: Which examples.
        n: How many.
        source: All examples [n, features], one after another.
        places: The place of each feature.
        target: The blocks.
        base: Where they begin, less the first place.
        batch: Examples of a block.
        block_size: Numbers of a block.
        eight: Lanes of a tile, in both directions.
    """
    features = len(places)
    for first in range(0, (n + batch - 1) // batch * batch, 8):
        to = base + first // batch * block_size + first % batch
        r0, r1 = rows[min(first, n - 1)] * features, rows[min(first + 1, n - 1)] * features
        r2, r3 = rows[min(first + 2, n - 1)] * features, rows[min(first + 3, n - 1)] * features
        r4, r5 = rows[min(first + 4, n - 1)] * features, rows[min(first + 5, n - 1)] * features
        r6, r7 = rows[min(first + 6, n - 1)] * features, rows[min(first + 7, n - 1)] * features
        for f in range(0, features - 7, 8):
            c0, c1, c2, c3, c4, c5, c6, c7 = transposed(
                (
                    load(source, r0 + f, eight), load(source, r1 + f, eight), load(source, r2 + f, eight),
                    load(source, r3 + f, eight), load(source, r4 + f, eight), load(source, r5 + f, eight),
                    load(source, r6 + f, eight), load(source, r7 + f, eight),
                )
            )  # fmt: skip
            store(target, to + peek(places, f) * batch, c0)
            store(target, to + peek(places, f + 1) * batch, c1)
            store(target, to + peek(places, f + 2) * batch, c2)
            store(target, to + peek(places, f + 3) * batch, c3)
            store(target, to + peek(places, f + 4) * batch, c4)
            store(target, to + peek(places, f + 5) * batch, c5)
            store(target, to + peek(places, f + 6) * batch, c6)
            store(target, to + peek(places, f + 7) * batch, c7)
        for f in range(features - features % 8, features):
            for i in range(8):
                target[to + places[f] * batch + i] = source[rows[min(first + i, n - 1)] * features + f]


@compiled
def unstage(places: Any, source: Any, base: int, first: int, n: int, target: Any, batch: int, eight: Any) -> None:
    """Copies a block's numbers to examples [n, features], one after another.

    Args:
        places: The place of each feature.
        source: The values.
        base: Where the block's values begin.
        first: The block's first example.
        n: Number of examples of the batch.
        target: The examples.
        batch: Examples of a block.
        eight: Lanes of a tile, in both directions.
    """
    features, lanes = len(places), min(batch, n - first)
    for lane in range(0, lanes, 8):
        to, f = (first + lane) * features, 0
        while f + 8 <= features and lane + 8 <= lanes:
            c0, c1, c2, c3, c4, c5, c6, c7 = transposed(
                (
                    load(source, base + peek(places, f) * batch + lane, eight),
                    load(source, base + peek(places, f + 1) * batch + lane, eight),
                    load(source, base + peek(places, f + 2) * batch + lane, eight),
                    load(source, base + peek(places, f + 3) * batch + lane, eight),
                    load(source, base + peek(places, f + 4) * batch + lane, eight),
                    load(source, base + peek(places, f + 5) * batch + lane, eight),
                    load(source, base + peek(places, f + 6) * batch + lane, eight),
                    load(source, base + peek(places, f + 7) * batch + lane, eight),
                )
            )
            store(target, to + f, c0)
            store(target, to + features + f, c1)
            store(target, to + 2 * features + f, c2)
            store(target, to + 3 * features + f, c3)
            store(target, to + 4 * features + f, c4)
            store(target, to + 5 * features + f, c5)
            store(target, to + 6 * features + f, c6)
            store(target, to + 7 * features + f, c7)
            f += 8
        while f < features:
            for i in range(min(8, lanes - lane)):
                target[to + i * features + f] = source[base + places[f] * batch + lane + i]
            f += 1


@compiled
def clear_padded(places: Any, n: int, target: Any, base: int, batch: int, block_size: int) -> None:
    """Sets the lanes of the last block that hold no examples to zero, at some places."""
    last = (n - 1) // batch
    for f in range(len(places)):
        at = base + last * block_size + places[f] * batch
        for lane in range(n - last * batch, batch):
            target[at + lane] = 0
