"""Training and measurement in bfloat16."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.engines import full_masks
from support.networks import problem_of
from torch import Tensor
from torch.nn import functional as F

import evoprune as ep
from evoprune.baselines.registry import BASELINES
from evoprune.engines import auto
from evoprune.engines.check import require
from evoprune.engines.dense import DensePopulation
from evoprune.engines.population import Engine
from evoprune.engines.registry import ENGINES
from evoprune.engines.stacked import StackedPopulation
from evoprune.errors import InputError
from evoprune.training.gradient import dense_gradient
from evoprune.training.loop import train
from evoprune.training.measure import measure


def problem(precision: str = "bf16", name: str = "residual", **more: object) -> ep.Problem:
    return problem_of(name, **{"dtype": "float32", "lr": 0.1, **more}, precision=precision)


def test_a_step_by_autocast() -> None:
    given = problem(name="sequential", batch_size=60, weight_decay=0.0, momentum=0.0)
    (mask,) = full_masks(given, 1)
    population = ENGINES["module"].build(given, [mask])
    network = given.network()
    network.load_state_dict(population.state(0))
    train(population, given, 1, seed=0)
    x, y = given.part("train")
    rows = next(ep.seeds.batch_order(60, 60, 0, 0, x.device))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(x[rows])
    assert outputs.dtype == torch.bfloat16
    F.cross_entropy(outputs.float(), y[rows]).backward()
    kept = torch.from_numpy(mask.layers["0.weight"])
    with torch.no_grad():
        weight = (network[0].weight - 0.1 * network[0].weight.grad) * kept
    torch.testing.assert_close(population.state(0)["0.weight"], weight, rtol=1e-6, atol=1e-7)
    assert population.state(0)["0.weight"].dtype == torch.float32


@pytest.mark.parametrize("name", ["residual", "residual images"])
def test_stacked_is_near_module_and_both_are_not_full(name: str) -> None:
    given, full = problem(name=name), problem("full", name)
    masks = full_masks(given, 2)
    require("stacked", given)
    x = given.part("validation")[0]

    def outputs(each: ep.Problem, engine: str) -> Tensor:
        groups = [masks] if engine == "stacked" else [[mask] for mask in masks]
        with torch.no_grad():
            return torch.cat([ENGINES[engine].build(each, some).train(False)(x) for some in groups])

    exact, module, stacked = outputs(full, "module"), outputs(given, "module"), outputs(given, "stacked")
    assert module.dtype == stacked.dtype == torch.float32
    scale = float(exact.abs().max())
    for found in (module, stacked):
        assert 1e-5 * scale < float((found - exact).abs().max()) < 0.05 * scale
    assert float((module - stacked).abs().max()) < 0.03 * scale


def test_measured_losses_are_those_of_bfloat16() -> None:
    given = problem()
    masks = full_masks(given, 1)
    population = ENGINES["module"].build(given, masks)
    x, y = given.part("validation")
    with torch.no_grad():
        expected = float(F.cross_entropy(population.train(False)(x)[0], y))
    assert measure(population, given, "validation").loss[0] == pytest.approx(expected, rel=1e-6)
    exact = measure(ENGINES["module"].build(problem("full"), masks), given, "validation").loss[0]
    assert exact != pytest.approx(expected, rel=1e-6)


def test_engines_that_compute_in_full_precision_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem()
    with pytest.raises(InputError, match="precision is 'bf16'; the kernels of the engine 'sparse' compute in full precision"):
        require("sparse", given)
    assert auto.choose(given, 0.98, 4) in ("module", "stacked")

    class Full(StackedPopulation):
        def __init__(self, problem: ep.Problem, masks: list[ep.Mask]) -> None:
            super().__init__(problem, masks)
            self.precision = "full"

    ep.register.engine("full", Engine(Full))
    try:
        with pytest.raises(InputError, match="the engine 'full' computes in full precision"):
            require("full", given)
        assert require("full", problem("full")).kind is Full
    finally:
        ENGINES.forget("full")
    assert DensePopulation.precision == "full"


@pytest.mark.parametrize("baseline", ["snip", "grasp", "synflow"])
def test_weights_are_chosen_in_full_precision_which_is_recorded(tmp_path: Path, baseline: str) -> None:
    half, full = problem(name="sequential"), problem("full", "sequential")
    masks = [BASELINES[baseline].prune(each, sparsity=0.5, seed=0) for each in (half, full)]
    assert masks[0] == masks[1]
    state = half.network().state_dict()
    assert np.array_equal(dense_gradient(half, state, 0), dense_gradient(full, state, 0))
    if baseline == "snip":
        for each, recorded in ((half, "full"), (full, None)):
            folder = tmp_path / each.recipe.precision
            ep.prune(each, "snip", sparsity=0.5, engine="module", out=folder)
            assert json.loads((folder / "config.json").read_text()).get("gradients_of_choice") == recorded


def test_it_is_for_float32_and_recorded() -> None:
    with pytest.raises(InputError, match="precision is 'bf16' and dtype 'float64'"):
        problem(dtype="float64")
    with pytest.raises(InputError, match="unknown precision 'half'"):
        ep.Recipe(precision="half")
    assert problem().config()["recipe"]["precision"] == "bf16"
    assert problem().hash != problem("full").hash
    assert np.dtype("float32") == problem().w0.dtype
