import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.engines import ENGINES
from evoprune.engines.module import ModulePopulation
from evoprune.problem import optimizers
from evoprune.train import measure, train


def masks_of(problem: ep.Problem, count: int, sparsity: float = 0.8) -> list[ep.Mask]:
    rng = np.random.default_rng(1)
    return [ep.random_mask(problem.shapes, sparsity, rng) for _ in range(count)]


def group(engine: str, masks: list[ep.Mask]) -> list[ep.Mask]:
    return masks[: ENGINES[engine].capacity]


def test_an_untrained_population_computes_the_masked_network(digits: ep.Problem, engine: str) -> None:
    masks = group(engine, masks_of(digits, 3))
    population = ENGINES[engine].build(digits, masks)
    x = digits.data.validation[0][:5]
    outputs = population(x)
    for k, mask in enumerate(masks):
        network = digits.network()
        with torch.no_grad():
            for name, layer in mask.layers.items():
                network.get_parameter(name).mul_(torch.from_numpy(layer))
        torch.testing.assert_close(outputs[k], network(x))


@pytest.mark.parametrize("optimizer", sorted(optimizers()))
def test_removed_weights_are_exactly_zero_after_training(digits: ep.Problem, engine: str, optimizer: str) -> None:
    momentum = 0.9 if optimizer in ("SGD", "RMSprop") else None
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, momentum=momentum, lr=0.01, weight_decay=0.01 * (optimizer != "Rprop"))
    if optimizer == "Muon":
        with pytest.raises(ep.InputError, match="2D"):
            ep.Problem(model="mlp", widths=(24, 16), recipe=recipe)
        return
    problem = ep.Problem(model="mlp", widths=(24, 16), recipe=recipe)
    masks = group(engine, masks_of(problem, 2))
    population = ENGINES[engine].build(problem, masks)
    train(population, problem, 1, seed=0)
    for k, mask in enumerate(masks):
        state = population.state(k)
        moved = 0
        for name, layer in mask.layers.items():
            assert not state[name][torch.from_numpy(~layer)].any()
            moved += int((state[name] != problem.network().state_dict()[name])[torch.from_numpy(layer)].sum())
        assert moved > 0.5 * mask.survivors


def test_sums_are_over_the_survivors(digits: ep.Problem) -> None:
    (mask,) = masks_of(digits, 1)
    population = ModulePopulation(digits, [mask])
    counts = population.survivor_sums([torch.ones_like(weight) for weight in population.weights])
    assert counts.tolist() == [mask.survivors]


def test_a_mask_of_another_network_is_refused(digits: ep.Problem, engine: str, tensors: ep.Data) -> None:
    other = ep.Problem(model=nn.Sequential(nn.Linear(6, 3)), data=tensors)
    with pytest.raises(ep.InputError, match="does not fit"):
        ENGINES[engine].build(digits, masks_of(other, 1))


def test_the_module_engine_takes_one_mask(digits: ep.Problem) -> None:
    with pytest.raises(ep.InputError, match="one at a time"):
        ModulePopulation(digits, masks_of(digits, 2))


def test_buffers_start_afresh_for_every_individual(tensors: ep.Data, engine: str) -> None:
    if engine != "module":
        pytest.skip("batch normalisation is the reference engine's")
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    problem = ep.Problem(model=network, data=tensors)
    (mask,) = masks_of(problem, 1)
    first = ENGINES[engine].build(problem, [mask])
    train(first, problem, 1, seed=0)
    second = ENGINES[engine].build(problem, [mask])
    assert first.state(0)["1.running_mean"].any()
    assert not second.state(0)["1.running_mean"].any()
    assert np.isfinite(measure(first, problem, "validation").loss).all()
