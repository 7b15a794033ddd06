import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune import seeds
from evoprune.errors import InputError
from evoprune.evaluation.brief import evaluate_chunk


@pytest.mark.parametrize(("position", "name"), enumerate(seeds.STREAMS))
def test_a_stream_is_the_child_at_its_position(position, name):
    child = np.random.SeedSequence(7).spawn(len(seeds.STREAMS))[position]
    assert np.array_equal(seeds.sequence(7, name).generate_state(4), child.generate_state(4))
    assert np.array_equal(seeds.generator(7, name).random(5), np.random.default_rng(child).random(5))


def test_the_order_of_streams_is_kept():
    # reordering or inserting would change the results of every recorded run; appending does not
    assert seeds.STREAMS[:7] == ("weights", "split", "order", "masks", "variation", "selection", "restart")
    assert len(set(seeds.STREAMS)) == len(seeds.STREAMS)


@pytest.mark.parametrize("draw", [lambda s, n: tuple(seeds.generator(s, n).integers(2**62, size=4)), seeds.integer])
def test_streams_and_seeds_all_differ_and_repeat(draw):
    drawn = {(seed, name): draw(seed, name) for seed in range(4) for name in seeds.STREAMS}
    assert len(set(drawn.values())) == len(drawn)
    assert all(draw(seed, name) == value for (seed, name), value in drawn.items())


def test_integer_fits_into_63_bits():
    drawn = [seeds.integer(seed, "order") for seed in range(64)]
    assert all(isinstance(value, int) and 0 <= value < 2**63 for value in drawn)
    assert max(drawn) >= 2**61  # the high bits are used


@pytest.mark.parametrize("seed", [-1, 1.0, "0", None, True, np.float64(1)])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(InputError, match="non-negative integer"):
        seeds.check_seed(seed)
    with pytest.raises(InputError, match="seed is"):
        seeds.generator(seed, "masks")


def test_numpy_integers_are_seeds():
    assert seeds.check_seed(np.int64(3)) == 3
    assert type(seeds.check_seed(np.int64(3))) is int
    assert seeds.integer(np.uint8(3), "split") == seeds.integer(3, "split")


def test_global_random_draws_from_the_stream_and_restores():
    expected = random.Random(5)
    wanted = [expected.random() for _ in range(4)]
    stream, before = random.Random(5), random.getstate()
    drawn = []
    for _ in range(2):  # the stream goes on where the first use left it
        with seeds.global_random(stream):
            drawn += [random.random(), random.random()]
        assert random.getstate() == before
    assert drawn == wanted
    assert stream.random() == expected.random()


def test_global_random_restores_after_an_error():
    stream, before = random.Random(5), random.getstate()
    with pytest.raises(KeyError), seeds.global_random(stream):
        random.random()
        raise KeyError
    assert random.getstate() == before
    assert stream.getstate() != random.Random(5).getstate()  # what was drawn before the error counts


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_all_global_generators_are_seeded_and_restored() -> None:
    def seed_all() -> None:
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)

    seed_all()
    expected = draws(), draws()
    seed_all()
    first = draws()
    with seeds.seeded(1):
        inside = draws()
    with pytest.raises(ValueError, match="inside"), seeds.seeded(2):
        other = draws()
        raise ValueError("inside")
    assert (first, draws()) == expected
    with seeds.seeded(1):
        assert draws() == inside
    assert all(a != b for a, b in zip(inside, other, strict=True))


@pytest.mark.parametrize(("device", "used"), [("cpu", None), ("cuda", 1), ("cuda:2", 2)])
def test_only_the_generators_of_the_device_are_seeded(monkeypatch: pytest.MonkeyPatch, device: str, used: int | None) -> None:
    """Three GPUs, whose generators are stood in for by others of the CPU; the second is torch's current one."""
    of_gpus = tuple(torch.Generator().manual_seed(number) for number in range(3))
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "default_generators", of_gpus)
    expected = torch.rand(2, generator=torch.Generator().manual_seed(9))
    before = [generator.get_state() for generator in of_gpus]
    with pytest.raises(KeyError), seeds.seeded(9, device):
        assert torch.equal(torch.rand(2), expected)
        for number, (generator, state) in enumerate(zip(of_gpus, before, strict=True)):
            assert torch.equal(generator.get_state(), state) == (number != used)
        if used is not None:
            assert torch.equal(torch.rand(2, generator=of_gpus[used]), expected)
        raise KeyError
    assert all(torch.equal(generator.get_state(), state) for generator, state in zip(of_gpus, before, strict=True))


def test_seeding_on_the_cpu_starts_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        raise AssertionError("CUDA was started")

    monkeypatch.setattr(torch.cuda, "init", start)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: start())
    with seeds.noise(1, 2):
        torch.rand(())


def by_numpy() -> float:
    return float(np.random.rand())


def by_python() -> float:
    return random.random()


def by_torch() -> float:
    return float(torch.rand(()))


def by_numpy_integers() -> float:
    return float(np.random.randint(2))


class Drawing(nn.Module):
    """Draws in its forward pass: stochastic depth in training, noise in evaluation mode, too."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.draw = draw

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x)) * (1 + 0.1 * self.draw())
        return self.c(x if self.training and self.draw() < 0.5 else torch.relu(self.b(x)))


@pytest.mark.parametrize("draw", [by_torch, by_numpy, by_python, by_numpy_integers])
def test_an_evaluation_depends_on_nothing_that_was_drawn_before(draw: Callable[[], float], tensors: ep.Data) -> None:
    problem = ep.Problem(model=Drawing(draw), data=tensors, recipe=ep.Recipe(epochs=2))
    rng = np.random.default_rng(0)
    masks = [ep.random_mask(problem.shapes, 0.5, rng) for _ in range(3)]
    job = ep.Evaluator(problem, epochs=1, evidence=0.1).job

    def values(found: list[ep.Evaluation]) -> dict[str, tuple[float, ...]]:
        return {e.mask: (*e.terms.values(), e.validation_loss, e.validation_accuracy) for e in found}

    expected = values(evaluate_chunk(job, masks))
    draws()
    found = values(evaluate_chunk(job, masks[2:])) | values(evaluate_chunk(job, masks[:2][::-1]))
    assert found == expected
    run = {"k": 3, "sparsity": 0.5, "fitness_epochs": 1}
    losses = {ep.k_starts(problem, **run).summary["test_loss"] for _ in range(2) if draws()}
    assert len(losses) == 1


def of_numpy() -> nn.Module:
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(np.random.randn(3, 6)))
    return model


def test_a_model_function_that_draws_from_numpy_draws_from_the_seed(tensors: ep.Data) -> None:
    a, b = (ep.Problem(model=of_numpy, data=tensors, seed=3) for _ in range(2))
    assert np.array_equal(a.w0, b.w0)
    assert not np.array_equal(a.w0, ep.Problem(model=of_numpy, data=tensors, seed=4).w0)
    assert not np.array_equal(a.w0, a.redrawn(4).w0)


GENERATOR, CLOCK = np.random.default_rng(0), itertools.count()


def by_a_global_generator() -> float:
    return float(GENERATOR.random())


def by_a_counter() -> float:
    return 0.01 * next(CLOCK)


def by_entropy() -> float:
    return float(np.random.default_rng().random())


@pytest.mark.parametrize("draw", [by_a_global_generator, by_a_counter, by_entropy])
def test_what_no_seed_reaches_is_refused(draw: Callable[[], float], tensors: ep.Data) -> None:
    with pytest.raises(InputError, match=r"outputs in training mode differ from one call to the next.*global generator"):
        ep.Problem(model=Drawing(draw), data=tensors)
    with pytest.raises(InputError, match="loss in training mode differ from one call to the next"):
        ep.Problem(
            model=nn.Linear(6, 3),
            data=tensors,
            loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) * (1 + draw()),
        )


class OwnGenerator(Drawing):
    def __init__(self) -> None:
        super().__init__(by_torch)
        self.rng = np.random.default_rng(5)
        self.draw = self.own

    def own(self) -> float:
        return float(self.rng.random())


def test_a_generator_of_the_modules_own_begins_anew_in_every_training(tensors: ep.Data) -> None:
    problem = ep.Problem(model=OwnGenerator(), data=tensors, recipe=ep.Recipe(epochs=1))
    run = {"k": 2, "sparsity": 0.5, "fitness_epochs": 1}
    assert len({ep.k_starts(problem, **run).summary["test_loss"] for _ in range(2)}) == 1
