"""Networks of timm and torchvision: by packages of the same faces, and by those themselves where they are installed."""

import importlib
import pickle
import sys
import types

import cloudpickle
import pytest
import torch
from support.models import images
from torch import nn

import evoprune as ep
from evoprune.cli.experiment import folder_name
from evoprune.comparison.options import CompareOptions, plan
from evoprune.errors import InputError
from evoprune.problem.models import MODELS
from evoprune.problem.packages import PACKAGES
from evoprune.search.execution import Execution

IMAGES = (1, 8, 8)


class Convolutional(nn.Module):
    """Takes no size, as most convolutional networks."""

    def __init__(self, num_classes=1000, in_chans=3):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_chans, 4, 3), nn.Linear(4, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Sized(nn.Module):
    """Takes the size of images, as transformers do."""

    def __init__(self, num_classes=1000, in_chans=3, img_size=224):
        super().__init__()
        self.size = img_size
        height, width = img_size if isinstance(img_size, tuple) else (img_size, img_size)
        self.flatten, self.fc = nn.Flatten(), nn.Linear(in_chans * height * width, num_classes)

    def forward(self, x):
        return self.fc(self.flatten(x))


class SizedOfTorchvision(Sized):
    def __init__(self, num_classes=1000, image_size=224):
        super().__init__(num_classes, 3, image_size)


def broken(**options):
    raise TypeError("nothing fits")


@pytest.fixture
def timm(monkeypatch):
    known = {"resnet_mini": Convolutional, "vit_mini": Sized, "broken": broken}
    fake = types.ModuleType("timm")
    fake.list_models = lambda: sorted(known)
    fake.is_model = lambda name: name.partition(".")[0] in known

    def create_model(name, pretrained=False, **options):
        assert not pretrained
        return known[name.partition(".")[0]](**options)

    fake.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", fake)
    return fake


@pytest.fixture
def torchvision(monkeypatch):
    known = {"resnet_mini": Convolutional, "vit_mini": SizedOfTorchvision}
    package, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
    models.list_models = lambda module: sorted(known) if module is models else [*known, "segmenter"]

    def get_model(name, weights="default", **options):
        assert weights is None
        return known[name](**options)

    models.get_model = get_model
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return models


def shapes_of(problem):
    return {name: tuple(shape) for name, shape in problem.shapes.items()}


def state(problem):
    return problem.network().state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)


# Classes, channels and size come from the data


def test_a_network_of_timm_gets_channels_and_classes(timm):
    problem = ep.Problem("timm:resnet_mini", images(IMAGES))
    assert shapes_of(problem) == {"conv.weight": (4, 1, 3, 3), "fc.weight": (4, 4)}
    assert problem.loss_name == "cross-entropy"
    assert problem.options.model == problem.config()["model"] == "timm:resnet_mini"
    assert shapes_of(ep.Problem("timm:resnet_mini.a1_in1k", images(IMAGES))) == shapes_of(problem)


def test_a_network_of_timm_gets_the_size_if_it_takes_one(timm):
    problem = ep.Problem("timm:vit_mini", images((2, 8, 6)))
    assert problem.network().size == (8, 6)
    assert shapes_of(problem) == {"fc.weight": (4, 2 * 8 * 6)}


def test_a_network_of_torchvision_gets_classes_and_size(torchvision):
    assert shapes_of(ep.Problem("torchvision:resnet_mini", images((3, 8, 8)))) == {
        "conv.weight": (4, 3, 3, 3), "fc.weight": (4, 4),
    }  # fmt: skip
    assert shapes_of(ep.Problem("torchvision:vit_mini", images((3, 8, 8)))) == {"fc.weight": (4, 192)}


def test_targets_that_are_numbers_are_as_many_as_the_outputs(timm):
    x, _ = images(IMAGES).train
    problem = ep.Problem("timm:resnet_mini", ep.Data(*((x, torch.randn(4, 2)) for _ in range(3))))
    assert (problem.loss_name, shapes_of(problem)["fc.weight"]) == ("mse", (2, 4))


def test_pixels_are_made_floats(timm):
    x, y = images(IMAGES).train
    problem = ep.Problem("timm:resnet_mini", ep.Data(*((x.abs().mul(9).byte(), y) for _ in range(3))))
    assert problem.part("train")[0].dtype == torch.float32


# Initial weights


def test_the_weights_are_those_that_the_package_draws_by_the_seed(timm):
    problem = ep.Problem("timm:resnet_mini", images(IMAGES))
    assert problem.config()["initialization"] == "given"
    assert 0 < state(problem)["fc.weight"].std() < 0.02
    assert same(state(problem), state(ep.Problem("timm:resnet_mini", images(IMAGES))))
    for other in (ep.Problem("timm:resnet_mini", images(IMAGES), weights_seed=1), problem.redrawn(1)):
        assert not (state(other)["fc.weight"] == state(problem)["fc.weight"]).any()
        assert state(other)["fc.weight"].std() < 0.02


@pytest.mark.parametrize("initialization", ["kaiming", "pytorch"])
def test_the_weights_can_be_drawn_anew(timm, initialization):
    problem = ep.Problem("timm:resnet_mini", images(IMAGES), initialization=initialization)
    assert problem.config()["initialization"] == initialization
    assert state(problem)["fc.weight"].std() > 0.1


@pytest.mark.parametrize(
    ("model", "usual"), [("timm:resnet_mini", "given"), ("torchvision:resnet18", "given"), ("mlp", "kaiming")]
)
def test_folders_and_comparisons_know_the_usual_initialization(model, usual):
    def folder(initialization):
        return folder_name("snip", {"data": "digits", "model": model, "initialization": initialization}, Execution)

    assert folder(None) == folder(usual)
    assert len({folder(None), folder("kaiming"), folder("given"), folder("pytorch")}) == 3
    comparison, _ = plan(CompareOptions(), {"data": "digits", "model": model, "initialization": None}, {})
    assert comparison.problem["initialization"] == usual


# Identity and workers


def test_a_problem_travels_as_the_name(timm):
    problem = ep.Problem("timm:resnet_mini", ep.Data(*images(IMAGES).parts().values()))
    _, (config, own) = problem.__reduce__()
    assert (config["model"], own["model"]) == ("timm:resnet_mini", None)
    content = cloudpickle.dumps(problem)
    assert b"create_model" not in content
    there = pickle.loads(content)
    assert there == problem
    assert there.config() == problem.config()
    assert same(state(there), state(problem))


def test_networks_of_two_names_are_two_problems(timm):
    names = ("timm:resnet_mini", "timm:vit_mini")
    one, other = (ep.Problem(name, images(IMAGES)) for name in names)
    assert one != other
    assert ep.Problem("timm:resnet_mini", images(IMAGES)) == one


def test_k_starts_prunes_such_a_network(timm):
    problem = ep.Problem("timm:resnet_mini", images(IMAGES), ep.Recipe(epochs=1, batch_size=4))
    result = ep.k_starts(problem, k=2, sparsity=0.5, fitness_epochs=1, controls=False)
    assert result.mask.survivors == round(0.5 * problem.prunable_count)


# Names and inputs that do not fit


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_that_is_not_installed_is_named_with_the_cure(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(InputError, match=rf"'{package}:resnet18' .* cannot be imported: .*pip install 'evoprune\[{package}\]'"):
        ep.Problem(f"{package}:resnet18")


def test_an_unknown_network_of_timm_is_refused_with_the_nearest(timm):
    listed = r"timm\.list_models\(\)"
    with pytest.raises(InputError, match=rf"timm has no network 'resnet_min'; .*{listed}.* Did you mean 'timm:resnet_mini'"):
        ep.Problem("timm:resnet_min")
    with pytest.raises(InputError, match=r"timm has no network 'hf-hub:a/b'; [^?]*$"):
        ep.Problem("timm:hf-hub:a/b")


@pytest.mark.parametrize("name", ["resnet_min", "segmenter", ""])
def test_an_unknown_network_of_torchvision_is_refused(torchvision, name):
    with pytest.raises(InputError, match=rf"torchvision has no network '{name}'; expected one of .* torchvision\.models"):
        ep.Problem(f"torchvision:{name}")


def test_an_unknown_package_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown model 'tim:resnet18'; expected one of: .*timm:NAME, torchvision:NAME"):
        ep.Problem("tim:resnet18")
    assert set(MODELS.families) == set(PACKAGES) == {"timm", "torchvision"}


def test_torchvision_takes_three_channels_only(torchvision):
    with pytest.raises(InputError, match=r"\(1, 8, 8\); torchvision's networks take images of 3 channels\. Repeat .* timm"):
        ep.Problem("torchvision:resnet_mini", images(IMAGES))


def test_inputs_that_are_no_images_are_refused(timm):
    with pytest.raises(InputError, match=r"timm:resnet_mini expects images \(channels, height, width\)"):
        ep.Problem("timm:resnet_mini", images((64,)))


def test_widths_are_refused(timm):
    with pytest.raises(InputError, match="they go with a model that takes widths"):
        ep.Problem("timm:resnet_mini", images(IMAGES), widths=(4,))


def test_an_error_of_the_package_names_the_network(timm):
    with pytest.raises(InputError, match="the model 'timm:broken' failed: TypeError: nothing fits"):
        ep.Problem("timm:broken", images(IMAGES))


# The packages themselves


def installed(module):
    try:
        return importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - one that does not fit torch raises others than ImportError
        pytest.skip(f"{module} is not installed: {error}")


@pytest.mark.parametrize(
    ("package", "name", "shape", "parameters"),
    [  # published for 1000 classes, 3 channels, and 196 patches and a token
        ("timm", "resnet10t", (1, 32, 32), 5_435_488 - 996 * 513 - 2 * 9 * 24),
        ("timm", "vit_tiny_patch16_224", (3, 32, 32), 5_717_416 - 996 * 193 - 192 * 192),
        ("torchvision", "squeezenet1_1", (3, 32, 32), 1_235_496 - 996 * 513),
        ("torchvision", "mobilenet_v3_small", (3, 32, 32), 2_542_856 - 996 * 1025),
    ],
)
@pytest.mark.filterwarnings("ignore::evoprune.errors.UnprunableWarning")
def test_real_networks(package, name, shape, parameters):
    installed({"timm": "timm", "torchvision": "torchvision.models"}[package])
    problem = ep.Problem(f"{package}:{name}", images(shape), ep.Recipe(epochs=1, batch_size=4))
    assert pickle.loads(pickle.dumps(problem)) == problem
    assert problem.parameter_count == parameters
