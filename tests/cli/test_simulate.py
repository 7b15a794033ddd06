"""The simulated schedule, against what one can compute by hand; and the script."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from support.processes import ROOT, python
from support.tables import read_table

SCRIPT = ROOT / "experiments" / "simulate_workers.py"
names = runpy.run_path(str(SCRIPT), run_name="simulate_workers")
RNG = np.random.default_rng(0)
FREE = dict.fromkeys(("chunk", "mask", "spread", "breed", "send", "take", "close", "wire"), 0.0)


def costs(**some: float) -> object:
    return names["Costs"](**{**FREE, **some})


@pytest.mark.parametrize(
    ("workers", "pieces", "seconds"),
    [(1, [2] * 5, 15.0), (2, [2, 2, 2, 2, 1, 1], 8.0), (4, [2, 2, 1, 1, 1, 1, 1, 1], 5.0), (100, [1] * 10, 2.0)],
)
def test_a_generation_takes_as_long_as_its_busiest_worker(workers: int, pieces: list[int], seconds: float) -> None:
    """10 masks in chunks of 2 at most, 1 s a chunk and 1 s a mask."""
    found = names["simulate_generations"](costs(mask=1.0, chunk=1.0), workers, 10, 2, 3, RNG)
    assert found.rate == pytest.approx(10 / seconds)
    assert found.workers_busy == pytest.approx(sum(1 + masks for masks in pieces) / (workers * seconds))
    assert found.main_busy == 0.0


def test_the_work_of_the_main_process_comes_on_top_of_a_generation() -> None:
    found = names["simulate_generations"](costs(mask=1.0, breed=0.5, send=0.25, take=0.25, close=1.0), 1, 4, 4, 5, RNG)
    assert found.rate == pytest.approx(4 / (4 * 0.5 + 0.25 + 4.0 + 0.25 + 1.0))
    assert found.main_busy == pytest.approx(3.5 / 7.5)


def test_a_steady_state_keeps_workers_busy_until_the_main_process_is() -> None:
    few = names["simulate_steady"](costs(mask=1.0, take=0.01), 10, 8, 2, 1000, RNG)
    assert few.workers_busy > 0.98
    many = names["simulate_steady"](costs(mask=1.0, take=0.01), 1000, 8, 2, 10_000, RNG)
    assert many.rate == pytest.approx(2 / 0.01, rel=0.02)  # one chunk a reply that the main process takes
    assert many.main_busy > 0.95
    assert [names["bottleneck"](found) for found in (few, many)] == ["workers", "main process"]


def test_spread_costs_a_generation_and_no_steady_state() -> None:
    uneven = costs(mask=1.0, spread=0.5)
    generations = names["simulate_generations"](uneven, 20, 40, 2, 50, np.random.default_rng(1))
    steady = names["simulate_steady"](uneven, 20, 40, 2, 50, np.random.default_rng(1))
    assert generations.workers_busy < 0.6
    assert steady.workers_busy > 0.9
    assert names["bottleneck"](generations) == "waiting for the last of a generation"


@pytest.mark.process
def test_the_script_measures_and_draws(tmp_path: Path) -> None:
    code, output = python(
        SCRIPT, "--data", "digits", "--model", "mlp", "--offspring", 8, "--chunk-size", 2, "--repeats", 2,
        "--workers", 1, 50, "--generations", 3, "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, output
    rows = read_table(tmp_path / "simulation.csv")
    assert [row["workers"] for row in rows] == [1, 1, 1, 50, 50, 50]
    assert all(0 < row["of_ideal"] <= 1.3 for row in rows)
    assert (tmp_path / "simulation.png").read_bytes().startswith(b"\x89PNG")
