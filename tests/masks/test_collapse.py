"""The report of collapse keeps the network of a model of the package, and gives the same as with a new one each time."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.processes import ROOT

import evoprune as ep
from evoprune.masks.collapse import Collapse
from evoprune.masks.random import random_mask

WIDTHS = {"mlp": (12, 8), "resnet-8": (4,), "vgg-11-bn": (2,), "mlp-mixer": (8,)}
IMAGES = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FORKED = """
import multiprocessing
import numpy as np
import torch
import evoprune as ep

problem = ep.Problem(model="lenet-300-100", data="digits", seed=0)
masks = [ep.random_mask(problem.shapes, 0.99, np.random.default_rng(i)) for i in range(4)]

def collapses(i):
    return str(masks[i].collapse(problem))

if __name__ == "__main__":
    torch.set_num_threads(2)
    here = [collapses(i) for i in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map_async(collapses, range(4)).get(60) == here)
"""


def problem_of(model: str) -> ep.Problem:
    data = ep.Data(train=(IMAGES, torch.arange(40) % 4))
    return ep.Problem(model=model, data=data, seed=0, widths=WIDTHS[model])


def sparse_masks(problem: ep.Problem) -> list[ep.Mask]:
    sparsities = (0.5, 0.9, 0.99, 0.997)
    return [random_mask(problem.shapes, s, np.random.default_rng(i), "uniform") for i, s in enumerate(sparsities * 3)]


def collapses(problem: ep.Problem, masks: list[ep.Mask]) -> list[Collapse]:
    return [mask.collapse(problem) for mask in masks]


@pytest.mark.parametrize("model", WIDTHS)
def test_the_kept_network_gives_what_a_new_one_gives(model: str) -> None:
    problem = problem_of(model)
    given = ep.Problem(model=problem.network(), data=problem.data, seed=0)  # the user's: a new network for each mask
    assert (problem.is_known, given.is_known) == (True, False)
    masks = sparse_masks(problem)
    wanted = collapses(given, masks)
    assert any(wanted)
    assert not all(wanted)
    assert collapses(problem, masks) == wanted
    assert collapses(problem, masks[::-1]) == wanted[::-1]


def test_threads_and_modes_of_torch_do_not_matter() -> None:
    problem = problem_of("mlp")
    masks = sparse_masks(problem)
    with torch.inference_mode():
        inside = collapses(problem, masks)
    assert collapses(problem, masks) == inside
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda mask: mask.collapse(problem), masks * 5)) == inside * 5


@pytest.mark.process
def test_a_forked_process_reports_it() -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKED], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.stdout == "True\n", run.stderr
