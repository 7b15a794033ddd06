"""The kernels of the engine ``sparse`` against numpy."""

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evoprune.engines.sparse.kernels import elementwise
from evoprune.engines.sparse.kernels.vectors import Lanes, load, store, total, totals, transposed
from evoprune.engines.sparse.layout import allocate, runs

SIXTEEN, EIGHT, FOUR = Lanes(16), Lanes(8), Lanes(4)
FLOATS = st.floats(-80, 80, width=32)


@numba.njit
def on_vectors(which: int, x: Any, lanes: Any) -> Any:
    y = np.empty_like(x)
    vector = load(x, 0, lanes)
    if which == 0:
        store(y, 0, elementwise.exp(vector))
    elif which == 1:
        store(y, 0, elementwise.sigmoid(vector))
    else:
        store(y, 0, elementwise.tanh(vector))
    return y


@numba.njit
def sums_of(x: Any, lanes: Any, four: Any) -> Any:
    found = np.empty(8, x.dtype)
    a, b, c, d = load(x, 0, lanes), load(x, 16, lanes), load(x, 32, lanes), load(x, 48, lanes)
    store(found, 0, totals(a, b, c, d))
    found[4], found[5], found[6], found[7] = total(a), total(b), total(c), total(d)
    return found


@numba.njit
def transpose(x: Any, lanes: Any) -> Any:
    y = np.empty_like(x)
    rows = transposed(
        (
            load(x, 0, lanes), load(x, 8, lanes), load(x, 16, lanes), load(x, 24, lanes), load(x, 32, lanes),
            load(x, 40, lanes), load(x, 48, lanes), load(x, 56, lanes),
        )
    )  # fmt: skip
    for i in range(8):
        store(y, 8 * i, rows[i])
    return y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None)  # the first example compiles
@given(x=arrays(np.float64, 16, elements=FLOATS))
def test_functions_of_vectors(x: np.ndarray, dtype: type) -> None:
    x = x.astype(dtype)
    exact = x.astype(np.longdouble)
    expected = (np.exp(exact), 1 / (1 + np.exp(-exact)), np.tanh(exact))
    for which, values in enumerate(expected):
        np.testing.assert_allclose(on_vectors(which, x, SIXTEEN), values.astype(dtype), rtol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_vectors_at_the_ends(dtype: type) -> None:
    x = np.array([0.0, -0.0, 1e-30, -1e-30, 500, -500, np.inf, -np.inf, np.nan, 0.1, -0.1, 0.0999, 9, -9, 20, -20], dtype)
    exps, sigmoids, tanhs = (on_vectors(which, x, SIXTEEN) for which in range(3))
    assert (exps[:4] == 1).all()
    assert np.isfinite(exps[:8]).all() and (exps[:8] >= 0).all()
    assert all(np.isnan(values[8]) for values in (exps, sigmoids, tanhs))
    np.testing.assert_allclose(sigmoids[:8], [0.5, 0.5, 0.5, 0.5, 1, 0, 1, 0], atol=1e-30)
    np.testing.assert_allclose(tanhs[:8], [0, 0, 0, 0, 1, -1, 1, -1], atol=1e-29)


@settings(deadline=None)  # the first example compiles
@given(x=arrays(np.float32, 64, elements=FLOATS))
def test_four_sums_in_one_go_have_the_bits_of_single_ones(x: np.ndarray) -> None:
    found = sums_of(x, SIXTEEN, FOUR)
    np.testing.assert_array_equal(found[:4], found[4:])
    np.testing.assert_allclose(found[4:], x.reshape(4, 16).astype(np.float64).sum(1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiles_are_transposed(dtype: type) -> None:
    x = np.arange(64, dtype=dtype)
    np.testing.assert_array_equal(transpose(x, EIGHT).reshape(8, 8), x.reshape(8, 8).T)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 9), st.data())
def test_runs_cover_each_place_once(shape: list[int], width: int, start: int, data: st.DataObject) -> None:
    halo = [width] * (len(shape) - 1)
    a, b = allocate(shape, halo, start), allocate(shape, [0] * (len(shape) - 1), 3)
    listed = np.array(runs(a.places, b.places)).reshape(-1, 3)
    pairs = [(p + i, q + i) for p, q, n in listed.tolist() for i in range(n)]
    assert pairs == list(zip(a.places.reshape(-1).tolist(), b.places.reshape(-1).tolist(), strict=True))
    steps = a.steps()
    assert steps is not None
    index = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    assert a.places[index] == a.start + sum(i * step for i, step in zip(index, steps, strict=True))
    assert a.low <= a.places.min() and a.places.max() < a.high
    assert (a.high - a.low) == np.prod([n + 2 * w for n, w in zip(shape, [0, *halo], strict=True)])
