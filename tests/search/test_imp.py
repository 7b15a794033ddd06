"""Iterative magnitude pruning with rewinding, against its algorithm in a few lines."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.search.imp import Imp, ImpOptions
from evoprune.seeds import batch_order
from evoprune.training.cost import multiply_adds

EPOCHS, SPARSITY, REWIND = 4, 0.9, 1


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem("mlp", "digits", ep.Recipe(epochs=EPOCHS), widths=(16, 12), dtype="float64")


class Direct:
    """Trains, prunes and rewinds by torch alone."""

    def __init__(self, problem: ep.Problem) -> None:
        self.problem, (self.x, self.y) = problem, problem.part("train")
        self.kept = torch.ones(problem.prunable_count, dtype=torch.bool)
        self.early: Any = None
        self.begin()

    def begin(self) -> None:
        self.network = self.problem.network()
        self.weights = [self.network.get_parameter(name) for name in self.problem.shapes]
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        if self.early is not None:
            self.network.load_state_dict(self.early[0])
            self.optimizer.load_state_dict(copy.deepcopy(self.early[1]))
        self.mask()

    def mask(self) -> None:
        layers = self.kept.split([weight.numel() for weight in self.weights])
        for weight, layer in zip(self.weights, layers, strict=True):
            removed = ~layer.reshape(weight.shape)
            weight.data[removed] = 0
            if weight.grad is not None:
                self.optimizer.state[weight]["momentum_buffer"][removed] = 0

    def train(self, first: int, last: int) -> None:
        steps = math.ceil(len(self.x) / 64)
        for epoch in range(first, last):
            for step, rows in enumerate(batch_order(len(self.x), 64, ep.seeds.integer(0, "order"), epoch, "cpu")):
                progress = (epoch * steps + step) / (steps * EPOCHS)
                self.optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * progress))
                self.optimizer.zero_grad()
                torch.nn.functional.cross_entropy(self.network(self.x[rows]), self.y[rows]).backward()
                self.optimizer.step()
                self.mask()

    def prune(self, count: int) -> None:
        magnitudes = torch.cat([weight.detach().abs().reshape(-1) for weight in self.weights])
        self.kept = torch.zeros_like(self.kept)
        self.kept[magnitudes.argsort(descending=True)[:count]] = True


def direct(problem: ep.Problem, rounds: int) -> Direct:
    it, n = Direct(problem), problem.prunable_count
    it.train(0, REWIND)
    it.early = copy.deepcopy((it.network.state_dict(), it.optimizer.state_dict()))
    for i in range(1, rounds + 1):
        it.train(REWIND, EPOCHS)
        it.prune(round((1 - SPARSITY) ** (i / rounds) * n))
        it.begin()
    it.train(REWIND, EPOCHS)
    return it


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_the_algorithm(problem: ep.Problem, engine: str, rounds: int) -> None:
    result = ep.prune(problem, "imp", sparsity=SPARSITY, rounds=rounds, rewind=REWIND, engine=engine)
    expected = direct(problem, rounds)
    assert np.array_equal(result.mask.bits, expected.kept.numpy())
    state = result.model.state_dict()
    for name, tensor in expected.network.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"rewind": 0}, {"restart": True}, {"rewind": 2, "rounds": 1}])
def test_costs_and_history(problem: ep.Problem, options: dict[str, Any]) -> None:
    given = {"sparsity": SPARSITY, "rounds": 3, "rewind": REWIND, **options}
    result = ep.prune(problem, "imp", **given)
    dense = multiply_adds(problem, ep.Mask(np.ones(problem.prunable_count, bool), problem.shapes))
    planned = Imp.cost(problem, ImpOptions(**given))(EPOCHS)
    assert result.summary["multiply_adds"] / dense == pytest.approx(planned, rel=1e-9)
    rows = result.trainings["winner"].history
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    last = result.mask.survivors
    early = 0 if options.get("restart") else given["rewind"]
    assert [row["survivors"] for row in rows] == [problem.prunable_count] * early + [last] * (EPOCHS - early)
    again = 0 if options.get("restart") else given["rewind"]
    trained = given["rewind"] + (EPOCHS - given["rewind"]) * given["rounds"] + EPOCHS - again
    assert result.summary["total_epochs"] == trained


def test_rewinding_to_w0_is_the_iterative_lottery_ticket(problem: ep.Problem) -> None:
    ours = ep.prune(problem, "imp", sparsity=SPARSITY, rounds=5, rewind=0, engine="module")
    assert ours.mask == ep.baseline(problem, "lottery-ticket-5", sparsity=SPARSITY).mask


@pytest.mark.parametrize("given", [{"rounds": 0}, {"rewind": -1}, {"rewind": EPOCHS}, {"rewind": True}, {"sparsity": 1.0}])
def test_bad_values_are_refused(problem: ep.Problem, given: dict[str, Any]) -> None:
    with pytest.raises(ep.InputError, match=next(iter(given))):
        ep.prune(problem, "imp", **given)
