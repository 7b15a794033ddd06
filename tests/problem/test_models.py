import itertools
import math

import pytest
import torch
from torch import nn

from evoprune.errors import InputError
from evoprune.problem.models import MODELS, build
from evoprune.problem.prunable import PRUNABLE_MODULES, prunable
from evoprune.problem.weights import INITIALIZATIONS, initialize, scale_for_density

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
# two convolutions of 5 x 5 and two poolings leave nothing of 8 x 8 pixels, see test_convolutional.py
TOO_SMALL = [("lenet-5", (1, 8, 8))]
DRAWN = [name for name in INITIALIZATIONS if name != "given"]


class Nested(nn.Module):
    """Layers of many kinds, two levels deep, and weights that are not to be pruned."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 3))
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3))
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(8), "fc": nn.Linear(8, 6, bias=False), "out": nn.Linear(6, 2)})


NESTED = {
    "features.0.weight": (4, 1, 3, 3),
    "features.3.weight": (4, 2, 3, 3),
    "head.fc.weight": (6, 8),
    "head.out.weight": (2, 6),
}


# Networks by name


@pytest.mark.sampled(19)
@pytest.mark.parametrize(("name", "shape"), [case for case in itertools.product(MODELS, SHAPES) if case not in TOO_SMALL])
def test_every_model_takes_images_of_any_size(name, shape):
    network = build(name, shape, 10)
    out = network(torch.randn(3, *shape))
    assert out.shape == ((3, *shape) if MODELS[name].loss == "reconstruction" else (3, 10))
    assert [p for p in network.parameters() if not p.requires_grad] == []
    assert len(prunable(network)) == sum(isinstance(module, PRUNABLE_MODULES) for module in network.modules()) > 0


def shapes_of(network):
    return {name: tuple(shape) for name, shape in prunable(network).items()}


def test_lenet_has_266200_weights():
    network = build("lenet-300-100", (1, 28, 28), 10)
    assert shapes_of(network) == {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}
    assert sum(p.numel() for p in network.parameters()) == 266_200 + 410


def test_lenet_by_hand():
    network = build("lenet-300-100", (1, 8, 8), 10)
    x = torch.randn(5, 1, 8, 8)
    hidden = torch.relu(network.fc2(torch.relu(network.fc1(x.reshape(5, 64)))))
    torch.testing.assert_close(network(x), network.fc3(hidden))


@pytest.mark.parametrize(
    ("widths", "shapes"), [((), [(3, 64)]), ([7], [(7, 64), (3, 7)]), ((5, 6, 7), [(5, 64), (6, 5), (7, 6), (3, 7)])]
)
def test_mlp_of_any_widths(widths, shapes):
    network = build("mlp", (1, 8, 8), 3, widths)
    assert list(shapes_of(network).values()) == shapes
    assert sum(isinstance(module, nn.ReLU) for module in network) == len(widths)
    assert isinstance(network[-1], nn.Linear)  # logits


@pytest.mark.parametrize(
    ("widths", "sizes"), [((4,), [64, 4, 64]), ((9, 4), [64, 9, 4, 9, 64]), ((9, 7, 4), [64, 9, 7, 4, 7, 9, 64])]
)
def test_the_decoder_mirrors_the_encoder(widths, sizes):
    network = build("autoencoder", (1, 8, 8), 10, widths)
    assert list(shapes_of(network).values()) == list(zip(sizes[1:], sizes[:-1], strict=True))
    assert network(torch.randn(2, 1, 8, 8)).min() < 0  # a linear output: normalised pixels are negative too


@pytest.mark.parametrize("widths", [(0,), (-3, 4), (2.5,), ("9",), (10, 0)])
@pytest.mark.parametrize("name", ["mlp", "autoencoder"])
def test_bad_widths_are_refused(name, widths):
    with pytest.raises(InputError, match="expected positive integers"):
        build(name, (1, 8, 8), 10, widths)


def test_widths_that_a_model_cannot_have_are_refused():
    with pytest.raises(InputError, match="expected positive integers"):
        build("autoencoder", (1, 8, 8), 10, ())
    with pytest.raises(InputError, match="use the model 'mlp'"):
        build("lenet-300-100", (1, 8, 8), 10, (300, 101))


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="Did you mean 'autoencoder'"):
        build("autencoder", (1, 8, 8), 10)


# What is prunable


def test_prunable_are_linear_and_convolutional_weights_in_order():
    network = Nested()
    found = prunable(network)
    assert {name: tuple(shape) for name, shape in found.items()} == NESTED
    assert list(found) == [name for name, _ in network.named_parameters() if name in NESTED]


@pytest.mark.parametrize("kind", PRUNABLE_MODULES)
def test_every_prunable_kind_has_its_weight_and_no_bias(kind):
    network = nn.Sequential(kind(4, 2, 3) if "Conv" in kind.__name__ else kind(4, 2))
    assert list(prunable(network)) == ["0.weight"]
    assert network[0].bias is not None


@pytest.mark.parametrize(
    ("exclude", "gone"),
    [
        (["head.out.weight"], {"head.out.weight"}),
        (["features"], {"features.0.weight", "features.3.weight"}),
        (["features.3"], {"features.3.weight"}),
        (["head.fc", "features.0.weight"], {"head.fc.weight", "features.0.weight"}),
        ([], set()),
    ],
)
def test_exclusion_by_parameter_or_module(exclude, gone):
    assert list(prunable(Nested(), exclude)) == [name for name in NESTED if name not in gone]


def test_a_module_excludes_only_what_is_in_it():
    network = build("mlp", (1, 8, 8), 3, [4] * 10)
    assert "fc10.weight" in prunable(network, ["fc1"])  # not every name that begins so


@pytest.mark.parametrize("name", ["nosuch", "head.norm", "head.out.bias", "fc", "head.out.weight.x", ""])
def test_an_excluded_name_that_fits_nothing_is_refused(name):
    with pytest.raises(InputError, match=r"cannot exclude .*expected one of features\.0\.weight, features\.3\.weight"):
        prunable(Nested(), [name])


def test_nothing_to_prune_is_refused():
    with pytest.raises(InputError, match=r"all of .* are excluded"):
        prunable(Nested(), ["features", "head"])
    with pytest.raises(InputError, match="no linear or convolutional layer"):
        prunable(nn.Sequential(nn.LayerNorm(3), nn.Embedding(2, 3)))


def test_tied_weights_count_once():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    assert list(prunable(network)) == ["0.weight"]


# Initial weights


def values(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a | b)


LAYERS = [
    # each with its fan in and fan out
    (lambda: nn.Linear(700, 500), 700, 500),
    (lambda: nn.Conv2d(40, 80, 5), 40 * 25, 80 * 25),
    (lambda: nn.Linear(700, 500, bias=False), 700, 500),
]


@pytest.mark.parametrize(("make", "fan_in", "fan_out"), LAYERS)
@pytest.mark.parametrize(("method", "variance"), [("kaiming", lambda i, o: 2 / i), ("xavier", lambda i, o: 2 / (i + o))])
def test_variance_follows_the_formula(method, variance, make, fan_in, fan_out):
    layer = make()
    initialize(layer, method, seed=0)
    weight = layer.weight.detach()
    assert float(weight.var()) == pytest.approx(variance(fan_in, fan_out), rel=0.03)
    assert abs(float(weight.mean())) < 0.02 * float(weight.std())
    assert weight.abs().max() > 3.5 * weight.std()  # normal, not uniform
    assert layer.bias is None or not layer.bias.any()


def test_pytorch_equals_a_new_network():
    make = lambda: build("mlp", (1, 8, 8), 10, (9, 7))  # noqa: E731
    with torch.random.fork_rng():
        torch.manual_seed(11)
        fresh = make()
    network = make()
    assert not same(values(network), values(fresh))
    initialize(network, "pytorch", seed=11)
    assert same(values(network), values(fresh))


def test_given_leaves_everything():
    network = Nested()
    before = values(network)
    initialize(network, "given", seed=0)
    assert same(values(network), before)


@pytest.mark.parametrize("method", DRAWN)
def test_initialize_is_seeded(method):
    def drawn(seed):
        network = Nested()
        initialize(network, method, seed)
        return {name: tensor for name, tensor in values(network).items() if name in NESTED}

    assert same(drawn(0), drawn(0))
    zero, one = drawn(0), drawn(1)
    assert not any(torch.equal(zero[name], one[name]) for name in NESTED)


@pytest.mark.parametrize("method", INITIALIZATIONS)
def test_initialize_leaves_the_global_state(method):
    network = Nested()
    before = torch.random.get_rng_state()
    initialize(network, method, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("method", DRAWN)
def test_normalisation_starts_afresh(method):
    network = Nested()
    norm = network.features[1]
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.num_batches_tracked):
            tensor.fill_(7)
        network.head.norm.weight.fill_(7)
    initialize(network, method, seed=0)
    assert [float(t.detach().unique()) for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)] == [1, 0, 0, 1]
    assert norm.num_batches_tracked == 0
    assert network.head.norm.weight.unique() == 1


def test_an_unknown_initialization_is_refused():
    with pytest.raises(InputError, match="Did you mean 'kaiming'"):
        initialize(Nested(), "kaimng", seed=0)


# W0 scaled for a density


def test_scaling_divides_by_the_root_of_the_density():
    network = build("mlp", (1, 8, 8), 10, (9,))
    before = values(network)
    scale_for_density(network, {"fc1.weight": 0.25})
    after = values(network)
    torch.testing.assert_close(after.pop("fc1.weight"), 2 * before.pop("fc1.weight"))
    assert same(after, before)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
def test_a_masked_layer_keeps_its_variance(density):
    draws = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(784, 1000))
    initialize(network, "kaiming", seed=0)
    x = torch.randn(200, 784, generator=draws)
    dense = float(network(x).detach().var())
    scale_for_density(network, {"0.weight": density})
    with torch.no_grad():
        network[0].weight.mul_(torch.rand(1000, 784, generator=draws) < density)
    assert float(network(x).detach().var()) == pytest.approx(dense, rel=0.05)


def test_a_density_of_one_changes_nothing():
    network = Nested()
    before = values(network)
    scale_for_density(network, dict.fromkeys(NESTED, 1))
    assert same(values(network), before)


@pytest.mark.parametrize("density", [0, -0.5, 1.01, math.nan])
def test_a_density_out_of_range_is_refused(density):
    with pytest.raises(InputError, match=r"in head\.fc\.weight; expected one in \(0, 1\]"):
        scale_for_density(Nested(), {"head.fc.weight": density})


def test_a_density_for_an_unknown_name_is_refused():
    with pytest.raises(InputError, match=r"unknown prunable weights 'head\.f\.weight'"):
        scale_for_density(Nested(), {"head.f.weight": 0.5})
