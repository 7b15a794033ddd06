"""Augmentation: drawn once a batch, for all individuals, on every engine; never in evaluation."""

import functools
import pickle
import random

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.errors import InputError
from evoprune.problem.augmentation import AUGMENTATIONS, augment, crop, flip
from evoprune.problem.data import Data
from evoprune.seeds import augmentation_seeds
from evoprune.training.loop import train
from evoprune.training.measure import measure

AUGMENT = ("crop:1", "flip")


def add(rng, batch):
    return batch + int(rng.integers(99))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return Data(train=(rng.integers(0, 256, (60, 3, 4, 4), np.uint8), rng.integers(0, 3, 60)), white=255)


def problem_of(data, augment=AUGMENT, **options):
    return ep.Problem("mlp", data, ep.Recipe(epochs=2, batch_size=16), widths=(6,), augment=augment, **options)


def trained(problem, engine, masks):
    population = ENGINES[engine].build(problem, masks)
    train(population, problem, 2, seed=3)
    return [population.state(k) for k in range(population.size)]


def test_a_crop_is_a_window_of_the_padded_image():
    image = torch.arange(1, 13).view(1, 1, 3, 4).expand(400, 1, 3, 4)
    padded = np.pad(image[0, 0].numpy(), 2)
    windows = {padded[i : i + 3, j : j + 4].tobytes() for i in range(5) for j in range(5)}
    torch.manual_seed(0)
    found = {window.numpy().tobytes() for window in crop(image, 2)[:, 0].contiguous()}
    assert found == windows  # all 25 of them, in 400 draws


def test_a_flip_mirrors_about_half_of_the_images():
    torch.manual_seed(0)
    batch = torch.arange(4000).view(1000, 1, 2, 2)
    found = flip(batch)
    mirrored = (found == batch.flip(-1)).all(3).all(2)[:, 0]
    assert torch.equal(found[~mirrored], batch[~mirrored])
    assert 440 < int(mirrored.sum()) < 560


def test_a_batch_has_the_bits_of_its_seed_and_leaves_the_generators_alone():
    batch, before = torch.arange(160).view(10, 1, 4, 4), (torch.get_rng_state(), np.random.get_state()[1], random.getstate())
    one, other = augment([flip], 5, batch), augment([flip], 5, batch)
    assert torch.equal(one, other)
    assert not torch.equal(one, augment([flip], 6, batch))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()
    assert len({*augmentation_seeds(0, 0, 0, 9), *augmentation_seeds(0, 1, 0, 9), *augmentation_seeds(1, 0, 0, 9)}) == 27
    assert augmentation_seeds(0, 0, 3, 5) == augmentation_seeds(0, 0, 0, 9)[3:5]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_trains_all_individuals_on_the_same_changed_batches(data, engine):
    problem = problem_of(data)
    masks = [ep.random_mask(problem.shapes, 0.5, np.random.default_rng(i)) for i in range(ENGINES[engine].chunk(2))]
    states, plain = trained(problem, engine, masks), trained(problem_of(data, ()), "module", masks[:1])[0]
    for mask, state in zip(masks, states, strict=True):
        (alone,) = trained(problem, "module", [mask])
        for name, expected in alone.items():
            torch.testing.assert_close(state[name], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(states[0]["fc1.weight"], plain["fc1.weight"], atol=1e-4)


def test_the_batches_of_a_step_are_the_direct_ones(data):
    problem = problem_of(data)
    rows, x = torch.tensor([3, 1, 4]), problem.data.train[0]
    changed = augment([lambda b: crop(b, 1), flip], 9, x.raw(rows))
    expected = (changed.float() - x.mean) / x.std
    torch.testing.assert_close(problem.batch(rows, 9)[0], expected, rtol=0, atol=0)
    assert torch.equal(problem.batch(rows)[0], x[rows])


def test_evaluation_sees_the_images_as_they_are(data):
    seen = []

    class Seeing(nn.Sequential):
        def forward(self, x):
            if not self.training:
                seen.append(x.detach().clone())
            return super().forward(x)

    problem = ep.Problem(
        Seeing(nn.Flatten(), nn.Linear(48, 3)),
        data,
        ep.Recipe(epochs=1),
        augment=AUGMENT,
        identity="seeing",
        loss="cross-entropy",
    )
    seen.clear()
    measure(ENGINES["module"].build(problem, [ep.random_mask(problem.shapes, 0.5, np.random.default_rng(0))]), problem, "test")
    assert torch.equal(seen[-1], problem.data.test[0][:])


def test_augmentation_counts_in_the_hash_and_travels(data):
    def shift(batch):
        return batch.roll(int(torch.randint(3, ())), -1)

    def other(batch):
        return batch.roll(int(torch.randint(2, ())), -1)

    hashes = {problem_of(data, a).hash for a in [(), "flip", AUGMENT, AUGMENT[::-1], shift, (shift, "flip"), other]}
    assert len(hashes) == 7
    assert "augment" not in problem_of(data, ()).config()
    assert problem_of(data).config()["augment"] == list(AUGMENT)
    problem = problem_of(data, (shift, "flip"))
    twin = pickle.loads(cloudpickle.dumps(problem))
    assert twin.hash == problem.hash
    assert twin.config() == problem.config()
    rows = torch.arange(9)
    assert torch.equal(twin.batch(rows, 1)[0], problem.batch(rows, 1)[0])


def test_a_registered_augmentation_is_found_by_name_and_counts_by_its_code(data):
    try:
        ep.register.augmentation("negative", lambda batch: 255 - batch)
        problem = problem_of(data, "negative")
        x = problem.data.train[0].raw(torch.arange(3))
        expected = ((255 - x).float() - problem.data.train[0].mean) / problem.data.train[0].std
        assert torch.equal(problem.batch(torch.arange(3), 0)[0], expected)
        before = problem.hash
        AUGMENTATIONS.forget("negative")
        ep.register.augmentation("negative", lambda batch: 254 - batch)
        assert problem_of(data, "negative").hash != before
    finally:
        AUGMENTATIONS.forget("negative")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("flop", "unknown augmentation 'flop'; expected one of: crop:NAME, flip. Did you mean 'flip'"),
        ("crop:four", "expected a number of pixels"),
        ("crop:0", "expected a number of pixels"),
        (7, "expected a name"),
        (lambda batch: batch[:2], "expected a batch of the same shape"),
        (lambda batch: None, "returned NoneType"),
        (lambda batch: batch @ batch.double(), "fails on inputs"),
        (functools.partial(add, np.random.default_rng(0)), "another batch from the same seed"),
    ],
)
def test_augmentations_that_cannot_be_served_are_refused(data, given, said):
    with pytest.raises(InputError, match=said):
        problem_of(data, given)


def test_images_are_needed():
    data = Data(train=(torch.rand(40, 5), torch.arange(40) % 2))
    with pytest.raises(InputError, match="expected images"):
        problem_of(data)


def test_a_registered_augmentation_has_the_same_hash_where_it_is_not_registered(data):
    try:
        ep.register.augmentation("negative", lambda batch: 255 - batch)
        problem = problem_of(data, ("negative", "crop:1"))
        packed, before = cloudpickle.dumps(problem), problem.hash
    finally:
        AUGMENTATIONS.forget("negative")
    twin = pickle.loads(packed)
    assert twin.hash == before
    assert twin.config() == problem.config()
