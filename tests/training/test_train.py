"""The training loop against a loop written out by hand."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import evoprune as ep
from evoprune.engines.module import ModulePopulation
from evoprune.evaluation.terms import survivor_sums
from evoprune.seeds import batch_order, noise
from evoprune.training.loop import train
from evoprune.training.measure import measure

CPU = torch.device("cpu")


def test_an_epoch_by_hand(digits: ep.Problem) -> None:
    mask = ep.random_mask(digits.shapes, 0.7, np.random.default_rng(0))
    network, removed = digits.network(), {name: torch.from_numpy(~layer) for name, layer in mask.layers.items()}
    parameters = dict(network.named_parameters())
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    with torch.no_grad():
        for name, where in removed.items():
            parameters[name][where] = 0
    x, y = digits.data.train
    gradient, step, steps = 0.0, 0, -(-len(x) // 64)
    for epoch in range(2):
        for rows in batch_order(len(x), 64, 7, epoch, CPU):
            lr = 0.05 * 0.5 * (1 + np.cos(np.pi * step / (3 * steps)))  # one cosine over the recipe's three epochs
            network.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            with torch.no_grad():
                for name, p in parameters.items():
                    if name in removed and epoch == 1:
                        gradient += float(p.grad[~removed[name]].abs().double().sum())
                    velocity[name] = 0.9 * velocity[name] + p.grad + 5e-4 * p
                    p -= lr * velocity[name]
                    if name in removed:
                        p[removed[name]] = 0
            step += 1
    population = ModulePopulation(digits, [mask])
    trained = train(population, digits, 2, seed=7)
    for name, value in population.state(0).items():
        torch.testing.assert_close(value, parameters[name].detach(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(survivor_sums(population, trained.gradients), gradient, rtol=1e-4)
    with torch.no_grad():
        vx, vy = digits.data.validation
        outputs = network(vx)
    measured = measure(population, digits, "validation")
    np.testing.assert_allclose(measured.loss, float(F.cross_entropy(outputs, vy)), rtol=1e-4)
    np.testing.assert_allclose(measured.accuracy, float((outputs.argmax(1) == vy).double().mean()), atol=0.01)


def test_batches_cover_every_row_once_and_follow_seed_and_epoch() -> None:
    first = torch.cat(list(batch_order(101, 10, 3, 0, CPU)))
    assert sorted(first.tolist()) == list(range(101))
    assert first.equal(torch.cat(list(batch_order(101, 10, 3, 0, CPU))))
    assert not first.equal(torch.cat(list(batch_order(101, 10, 3, 1, CPU))))
    assert not first.equal(torch.cat(list(batch_order(101, 10, 4, 0, CPU))))


def test_noise_is_seeded_and_the_global_generator_restored() -> None:
    before = torch.random.get_rng_state()
    draws = []
    for _ in range(2):
        with noise(3, 1):
            draws.append(torch.rand(4))
    assert draws[0].equal(draws[1])
    assert before.equal(torch.random.get_rng_state())


def test_brief_training_is_the_start_of_the_full_one(digits: ep.Problem) -> None:
    mask = ep.random_mask(digits.shapes, 0.5, np.random.default_rng(0))
    brief, full = ModulePopulation(digits, [mask]), ModulePopulation(digits, [mask])
    train(brief, digits, 2, seed=1)
    seen = {}
    train(full, digits, 3, 1, lambda epoch, _, loss: seen.update({epoch: full.state(0)}))
    assert sorted(seen) == [1, 2, 3]
    assert all(value.equal(seen[2][name]) for name, value in brief.state(0).items())


def test_dropout_draws_the_same_noise_for_every_individual(tensors: ep.Data) -> None:
    network = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    problem = ep.Problem(model=network, data=tensors, recipe=ep.Recipe(epochs=1))
    mask = ep.random_mask(problem.shapes, 0.5, np.random.default_rng(0))
    first, second = ModulePopulation(problem, [mask]), ModulePopulation(problem, [mask])
    train(first, problem, 1, seed=0)
    torch.rand(3)  # the global state must not matter
    train(second, problem, 1, seed=0)
    assert all(value.equal(second.state(0)[name]) for name, value in first.state(0).items())


def test_reconstruction_compares_with_the_input() -> None:
    problem = ep.Problem(model="autoencoder", widths=(8, 4), recipe=ep.Recipe(epochs=1))
    mask = ep.random_mask(problem.shapes, 0.5, np.random.default_rng(0))
    population = ModulePopulation(problem, [mask])
    x = problem.data.validation[0]
    with torch.no_grad():
        expected = float((population(x)[0] - x).square().mean())
    measured = measure(population, problem, "validation")
    np.testing.assert_allclose(measured.loss, expected, rtol=1e-5)
    assert np.isnan(measured.accuracy).all()
