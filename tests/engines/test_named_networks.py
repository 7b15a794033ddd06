"""A training step of the larger networks by name, by every engine that claims it, against the reference."""

import pytest
from support.engines import assert_as_module, full_masks
from support.models import CIFAR, MNIST, NARROW, ON_PATCHES, narrow

import evoprune as ep
from evoprune.engines.check import require
from evoprune.engines.registry import ENGINES

POPULATIONS = sorted(name for name, engine in ENGINES.items() if engine.capacity is None)
SHAPES = [*((name, CIFAR) for name in NARROW), ("lenet-5", MNIST), ("vgg-16-bn", MNIST)]
NOT_CLAIMED = {("sparse", name) for name in ON_PATCHES}

pytestmark = pytest.mark.filterwarnings("ignore:not prunable, and so dense. positions:evoprune.errors.UnprunableWarning")


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("engine", "name", "shape"),
    [(engine, *case) for engine in POPULATIONS for case in SHAPES if (engine, case[0]) not in NOT_CLAIMED],
)
def test_one_training_step_is_that_of_the_reference(engine: str, name: str, shape: tuple[int, ...]) -> None:
    problem = narrow(name, shape)
    assert require(engine, problem) is ENGINES[engine]
    assert_as_module(problem, full_masks(problem, 2), engine=engine)


@pytest.mark.parametrize(("engine", "name"), sorted(NOT_CLAIMED))
def test_networks_on_patches_are_refused_with_the_cure(engine: str, name: str) -> None:
    with pytest.raises(ep.InputError, match=f"transpose in forward is a function that the engine '{engine}' does not know"):
        require(engine, narrow(name))
