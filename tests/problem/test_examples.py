"""Inputs that are read batch by batch: images of bytes, memory maps, and data sets of PyTorch's kind."""

import pickle
import tracemalloc
from dataclasses import replace

import cloudpickle
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

import evoprune as ep
from evoprune.baselines.registry import BASELINES
from evoprune.engines.check import require
from evoprune.engines.registry import ENGINES
from evoprune.errors import InputError, RunError
from evoprune.masks.mask import Mask
from evoprune.problem import data as data_module
from evoprune.problem import datasets
from evoprune.problem.data import Data
from evoprune.problem.examples import Examples, inputs_of
from evoprune.training.loop import train
from evoprune.training.measure import measure

N = 60


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (N, 3, 4, 4), np.uint8), rng.integers(0, 3, N)


class Pairs(Dataset):
    """As torchvision's data sets are: an image and a label by number, through a transform."""

    def __init__(self, x, y, transform=None):
        self.x, self.y, self.transform = x, y, transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        x = torch.from_numpy(self.x[row])
        return (x if self.transform is None else self.transform(x)), int(self.y[row])


class Rows:
    """As Hugging Face's data sets are: rows with columns."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return {"img": self.x[row], "label": self.y[row], "note": "none"}


class Image:
    """As Pillow's images are."""

    def __init__(self, pixels, mode="RGB"):
        self.pixels, self.mode = pixels, mode

    def getbands(self):
        return tuple(self.mode)

    def convert(self, mode):
        return Image(self.pixels[..., :3], mode)

    def __array__(self, dtype=None, copy=None):
        return self.pixels


def mapped(tmp_path, array, name="x.npy"):
    np.save(tmp_path / name, array)
    return np.load(tmp_path / name, mmap_mode="r")


def problem_of(data, **options):
    return ep.Problem("mlp", data, ep.Recipe(epochs=2, batch_size=16), widths=(6,), **options)


def make_mask(problem, baseline):
    return BASELINES[baseline].prune(problem, sparsity=0.8, seed=0)


def numbers(problem):
    result = ep.k_starts(problem, k=2, sparsity=0.5)
    return result.mask, result.summary["test_loss"], result.summary["validation_accuracy"]


def test_bytes_are_normalised_by_channel_batch_by_batch_as_all_at_once(images, monkeypatch):
    monkeypatch.setattr("evoprune.problem.load.MOST_IN_MEMORY", 0)
    data = problem_of(Data(train=images, white=255)).data
    x = data.train[0]
    assert isinstance(x, Examples)
    assert x.store.dtype == torch.uint8
    every = x.raw(torch.arange(len(x))).double()
    mean, std = every.mean((0, 2, 3), keepdim=True), every.std((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(x[:], ((every - mean) / std).float(), rtol=1e-5, atol=1e-5)
    rows = torch.tensor([5, 2, 2])
    assert torch.equal(x[rows], x[:][rows])
    assert torch.equal(data.test[0][2:4], data.test[0][:][2:4])


def test_a_channel_of_one_value_becomes_zeros(images):
    x = images[0].copy()
    x[:, 1] = 77
    normalised = problem_of(Data(train=(x, images[1]), white=255)).data.train[0]
    assert not normalised[:, 1].any()
    assert normalised[:, [0, 2]].any()


def test_inputs_that_are_normalised_already_count_with_their_mean(images):
    stored, std = inputs_of(torch.from_numpy(images[0]), "inputs"), torch.ones(3, 1, 1)
    hashes = [
        problem_of(Data(train=(stored.normalised(torch.full((3, 1, 1), mean), std), images[1]))).hash
        for mean in (1.0, 2.0, 1.0)
    ]
    assert hashes[0] == hashes[2] != hashes[1]


def test_few_bytes_become_floats_of_the_same_bits(images, monkeypatch):
    data = Data(train=images, white=255)
    few = problem_of(data)
    monkeypatch.setattr("evoprune.problem.load.MOST_IN_MEMORY", 0)
    many = problem_of(data)
    assert isinstance(few.data.train[0], torch.Tensor)
    assert torch.equal(few.data.train[0], many.data.train[0][:])
    assert few.hash == many.hash
    assert numbers(few) == numbers(many)


def test_a_named_data_set_has_the_same_bits_either_way(monkeypatch):
    few = ep.Problem("mlp", "digits", widths=(5,), dtype="float64")
    monkeypatch.setattr("evoprune.problem.load.MOST_IN_MEMORY", 0)
    many = ep.Problem("mlp", "digits", widths=(5,), dtype="float64")
    assert torch.equal(few.data.train[0], many.data.train[0][:])
    assert few.hash == many.hash


def test_white_counts_in_the_hash_and_raw_bytes_are_as_given(images):
    plain, white = problem_of(Data(train=images)), problem_of(Data(train=images, white=255))
    assert float(plain.data.train[0].max()) == 255
    assert plain.hash != white.hash
    assert problem_of(Data(train=images, white=255), normalize=False).hash != white.hash
    assert float(problem_of(Data(train=images, white=255), normalize=False).data.train[0].max()) == 1


@pytest.mark.parametrize("engine", ["module", "sparse"])
def test_a_memory_map_trains_as_its_content(tmp_path, images, engine):
    floats = (images[0] / 255).astype(np.float32)
    lazy, plain = (problem_of(Data(train=(x, images[1]))) for x in (mapped(tmp_path, floats), floats))
    assert isinstance(lazy.data.train[0], Examples)
    assert ep.k_starts(lazy, k=2, sparsity=0.5, engine=engine).mask == ep.k_starts(plain, k=2, sparsity=0.5, engine=engine).mask
    assert numbers(lazy) == numbers(plain)


@pytest.mark.parametrize("dtype", ["uint8", ">i2", "<u2", "float16", ">f8", "bool"])
def test_memory_maps_of_other_numbers_are_read_as_arrays_are(tmp_path, images, dtype):
    x = images[0].astype(dtype)
    lazy, plain = (problem_of(Data(train=(given, images[1]))) for given in (mapped(tmp_path, x), x))
    assert torch.equal(lazy.data.train[0][:], plain.data.train[0])


def test_a_part_of_a_memory_map_is_the_part(tmp_path, images):
    whole = mapped(tmp_path, images[0])
    for part in (whole[20:50], whole[::2], whole[:, ::-1], whole[7:][:40, :, 1:3]):
        problem = problem_of(Data(train=(part, images[1][: len(part)]), test=(part, images[1][: len(part)])))
        twin = pickle.loads(pickle.dumps(problem))
        for each in (problem, twin):
            assert torch.equal(each.data.test[0][:], torch.from_numpy(np.array(part)).float())
        assert twin.hash == problem.hash


def test_a_part_of_a_file_of_two_gigabytes_is_used_without_reading_the_rest(tmp_path):
    shape = (700_000, 3, 16, 16)
    array = np.memmap(tmp_path / "large", "float32", "w+", shape=shape)
    array[-200:] = np.random.default_rng(0).normal(size=(200, *shape[1:]))
    array.flush()
    assert (tmp_path / "large").stat().st_size > 2e9
    y = np.arange(200) % 2
    tracemalloc.start()
    problem = problem_of(Data(train=(np.memmap(tmp_path / "large", "float32", "r", shape=shape)[-200:], y)))
    twin = pickle.loads(pickle.dumps(problem))
    found = ep.k_starts(twin, k=2, sparsity=0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert len(pickle.dumps(problem)) < 20_000
    assert found.mask == ep.k_starts(problem_of(Data(train=(np.array(array[-200:]), y))), k=2, sparsity=0.5).mask


def test_another_file_has_another_hash_and_a_changed_one_is_refused(tmp_path, images):
    first, second = (problem_of(Data(train=(mapped(tmp_path, images[0], name), images[1]))) for name in ("a.npy", "b.npy"))
    assert first.hash != second.hash
    packed = pickle.dumps(first)
    np.save(tmp_path / "a.npy", images[0][:-1])
    with pytest.raises(InputError, match=r"a\.npy has changed since it was opened; expected it at the same path"):
        pickle.loads(packed)
    (tmp_path / "a.npy").unlink()
    with pytest.raises(InputError, match=r"a\.npy cannot be opened"):
        pickle.loads(packed)


def test_nan_in_a_memory_map_is_found_in_its_batch(tmp_path, images):
    floats = images[0].astype(np.float32)
    floats[41, 1, 2, 3] = np.nan
    with pytest.raises((InputError, RunError), match="train inputs have NaN or infinite values in example"):
        numbers(problem_of(Data(train=(mapped(tmp_path, floats), images[1]))))


def test_a_data_set_is_read_once_and_trains_as_its_content(images, monkeypatch):
    reads = []

    def transform(x):
        reads.append(1)
        return x.float() / 255

    plain = numbers(problem_of(Data(train=((images[0] / np.float32(255)), images[1]))))
    data = Data(train=Pairs(*images, transform))
    assert len(reads) == 1 + 2 * datasets.TWICE + N
    assert numbers(problem_of(data)) == plain
    assert len(reads) == 1 + 2 * datasets.TWICE + N
    monkeypatch.setattr(datasets, "MOST_IN_MEMORY", 0)
    large = problem_of(Data(train=Pairs(*images, transform)))
    assert isinstance(large.data.train[0], Examples)
    assert numbers(large) == plain
    again = problem_of(Data(train=Pairs(*images, transform)))
    assert again.hash == large.hash == pickle.loads(pickle.dumps(large)).hash  # by content, wherever the file lies


def test_columns_images_words_and_loaders(images):
    x, y = images
    expected = Data(train=images)
    words = np.array(["bird", "cat", "dog"])[y]
    for given, columns in (
        (Rows(x, y), ("img", "label")),
        (Rows([Image(image.transpose(1, 2, 0)) for image in x], y), ("img", "label")),
        (DataLoader(Pairs(x, y), batch_size=7, shuffle=True), None),
        (TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), None),
        (Subset(Pairs(np.concatenate([x, x]), np.concatenate([y, y])), range(N, 2 * N)), None),
    ):
        data = Data(train=given, columns=columns)
        assert torch.equal(data.train[0], expected.train[0])
        assert torch.equal(data.train[1], expected.train[1])
    data = Data(train=Rows(x, words), columns=("img", "label"))
    assert data.classes == ("bird", "cat", "dog")
    assert torch.equal(data.train[1], expected.train[1])


def test_a_data_set_that_draws_is_refused_without_a_name_and_read_anew_with_one(images):
    def jitter(x):
        return x.float() / 255 + torch.rand(())

    with pytest.raises(InputError, match=r"draws at random \(item 0 differs between two reads\).*augment=.*identity="):
        Data(train=Pairs(*images, jitter))
    data = Data(train=Pairs(*images, jitter), test=(images[0] / np.float32(255), images[1]), identity="jitter-1")
    problem = problem_of(data)
    rows = torch.arange(5)
    assert not torch.equal(problem.batch(rows, 1)[0], problem.batch(rows, 2)[0])
    assert torch.equal(problem.batch(rows, 1)[0], problem.batch(rows, 1)[0])
    assert numbers(problem) == numbers(problem_of(data)) == numbers(pickle.loads(cloudpickle.dumps(problem)))
    assert problem.hash != problem_of(replace(data, train=Pairs(*images, jitter), identity="jitter-2")).hash


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3), 0


@pytest.mark.parametrize(
    ("make", "columns", "said"),
    [
        (lambda x, y: Rows(x, y), None, "the columns 'img', 'label', 'note'; expected to know which two"),
        (lambda x, y: Rows(x, y), ("image", "label"), "are not all among them"),
        (lambda x, y: Rows(x, y), ("img",), "expected two names"),
        (lambda x, y: Endless(), None, "expected a map-style data set"),
        (lambda x, y: Pairs(x[:0], y[:0]), None, "is empty"),
        (lambda x, y: Pairs(x, y, lambda i: i[:, : 3 + int(i[0, 0, 0]) % 2]), None, "item .* has an input"),
        (lambda x, y: TensorDataset(torch.from_numpy(x)), None, "is tuple of 1; expected an input and a label"),
        (lambda x, y: Pairs(x, y, lambda i: "word"), None, "the input of item 0 is str"),
        (lambda x, y: Pairs(x, y[:-1]), None, "cannot give item 59 of 60: IndexError"),
        (
            lambda x, y: DataLoader(Pairs(x, y), sampler=WeightedRandomSampler([1.0] * N, N)),
            None,
            "a special sampler or collate_fn",
        ),
        (lambda x, y: DataLoader(Pairs(x, y), collate_fn=list), None, "a special sampler or collate_fn"),
    ],
)
def test_data_sets_that_cannot_be_served_are_refused(images, make, columns, said):
    with pytest.raises(InputError, match=said):
        Data(train=make(*images), columns=columns)


def test_methods_and_baselines_take_inputs_that_are_read_batch_by_batch(tmp_path, images, monkeypatch):
    monkeypatch.setattr(data_module, "MOST_IN_MEMORY", 0)
    lazy, plain = (problem_of(Data(train=(x, images[1]))) for x in (mapped(tmp_path, images[0]), images[0]))
    for name in ("snip", "grasp", "synflow"):
        assert make_mask(lazy, name) == make_mask(plain, name)
    for method, options in (("evolve", {"generations": 1, "k": 3, "offspring": 3, "elites": 1}), ("rigl", {}), ("gmp", {})):
        results = [ep.prune(problem, method, sparsity=0.8, **options) for problem in (lazy, plain)]
        assert results[0].mask == results[1].mask
        assert results[0].summary["test_loss"] == results[1].summary["test_loss"]


def test_an_autoencoder_reconstructs_inputs_that_are_read_batch_by_batch(tmp_path, images):
    lazy, plain = (
        ep.Problem("autoencoder", Data(train=(x, images[1])), ep.Recipe(epochs=2), widths=(5,))
        for x in (mapped(tmp_path, images[0]), images[0])
    )
    assert (
        ep.k_starts(lazy, k=1, sparsity=0.5).summary["test_loss"] == ep.k_starts(plain, k=1, sparsity=0.5).summary["test_loss"]
    )
    assert lazy.chance_loss == plain.chance_loss


class Noisy(Dataset):
    """Draws for the second class alone, whose examples are not the first."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        x = torch.from_numpy(self.x[row])
        return (x + torch.rand(()) if self.y[row] else x), int(self.y[row])


def noisy_problem():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 12)).astype(np.float32), np.arange(120) % 8 == 7
    network = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(8, 2))
    return ep.Problem(network, Data(train=Noisy(x, y.astype(int)), identity="noisy"), ep.Recipe(epochs=1, batch_size=8))


def test_a_data_set_that_draws_has_the_same_bits_in_any_company_and_on_any_engine():
    problem = noisy_problem()
    masks = [ep.random_mask(problem.shapes, 0.5, np.random.default_rng(i)) for i in range(4)]
    states = {}
    for engine, together in (("module", masks[:1]), ("sparse", masks[:1]), ("sparse", masks), ("stacked", masks)):
        population = require(engine, problem).build(problem, together)
        train(population, problem, 1, seed=3)
        states[engine, len(together)] = population.state(0)["0.weight"]
    assert torch.equal(states["sparse", 1], states["sparse", 4])
    torch.testing.assert_close(states["sparse", 1], states["module", 1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states["stacked", 4], states["module", 1], rtol=1e-4, atol=1e-5)


def test_a_reconstruction_is_measured_against_the_input_that_was_read():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    data = Data(train=Noisy(x, np.ones(60, int)), identity="noisy")
    problem = ep.Problem(torch.nn.Linear(3, 3), data, ep.Recipe(epochs=1), loss="reconstruction", initialization="given")
    population = ENGINES["module"].build(problem, [Mask(np.ones(9, bool), problem.shapes)])
    population.load([{"weight": torch.eye(3), "bias": torch.zeros(3)}])
    assert measure(population, problem, "validation").loss.tolist() == [0.0]


@pytest.mark.parametrize(
    ("change", "white", "said"),
    [
        (lambda x: (x / 255).astype(np.float32), 255, "white is 255, but train inputs are torch.float32; expected bytes"),
        (lambda x: x.astype(np.int64), 255, "expected bytes"),
        (lambda x: x, 0, "white is 0; expected an integer from 1 to 255"),
        (lambda x: x, "255", "white is '255'"),
        (lambda x: x, True, "white is True"),
    ],
)
def test_white_goes_with_bytes(images, change, white, said):
    with pytest.raises(InputError, match=said):
        Data(train=(change(images[0]), images[1]), white=white)
