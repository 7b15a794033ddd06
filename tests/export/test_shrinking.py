import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.kinds import Attending, Recurrent, made
from support.networks import CLASSES, NETWORKS
from torch import Tensor, nn

import evoprune as ep
from evoprune.export.channels.flow import NORMS
from evoprune.problem.models import build
from evoprune.problem.prunable import prunable


def drawn(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Returns a network of doubles in evaluation mode, whose normalisation has statistics as after a training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().double().eval()
        for module in model.modules():
            if isinstance(module, NORMS):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias":
                    nn.init.normal_(parameter, 0, 0.3)
    return model


def masked(model: nn.Module, seed: int = 0) -> None:
    """Removes weights at random, in place, and all inputs of some neurons and channels; the others are scaled to make up."""
    rng = np.random.default_rng(seed)
    *hidden, last = prunable(model)
    with torch.no_grad():
        for name in (*hidden, last):
            weight = model.get_parameter(name)
            kept = rng.random(weight.shape) < 0.5
            kept[rng.random(len(kept)) < (0.4 if name != last else 0)] = False
            weight.mul_(torch.from_numpy(kept) / kept.mean() ** 0.5)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def inputs(*shape: int) -> Tensor:
    return torch.randn(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mlp": ((1, 8, 8), (60, 40)),
    "conv-4": ((3, 16, 16), (12,)),
    "resnet-20": ((3, 16, 16), (6,)),
    "vgg-11-bn": ((3, 16, 16), (6,)),
    "lenet-5": ((1, 20, 20), (10,)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_network_becomes_smaller_and_its_outputs_stay(name: str) -> None:
    shape, widths = CASES[name]
    model = drawn(lambda: build(name, shape, 10, widths))
    masked(model)
    x = inputs(*shape)
    expected = outputs(model, x)
    assert expected.std(0).max() > 1e-6  # the inputs matter, and far more than roundings
    small = ep.export.shrink(model)
    assert type(small) is type(model)
    assert size(small) < 0.8 * size(model)
    assert torch.allclose(outputs(small, x), expected, rtol=1e-11, atol=1e-11)
    assert torch.equal(outputs(model, x), expected)  # it was not changed
    again = ep.export.shrink(small)
    assert size(again) == size(small)


@pytest.mark.filterwarnings("ignore:these layers keep their width", "ignore:nothing was removed", "ignore:Using padding='same'")
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_for_networks_of_all_shapes(name: str) -> None:
    make, shape = NETWORKS[name]
    model = drawn(make)
    mask = ep.random_mask(prunable(model), 0.8, np.random.default_rng(1), "uniform")
    small = ep.export.shrink(model, mask, inputs(*shape))
    x = inputs(*shape)
    expected = outputs(ep.export.apply(mask, model), x)
    assert torch.allclose(outputs(small, x), expected, rtol=1e-11, atol=1e-11)


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return layer


def test_a_neuron_without_inputs_goes_into_the_next_bias() -> None:
    """By hand: unit 1 has relu(2) = 2, unit 2 has relu(-1) = 0, unit 3 is read by nobody; 10 + 2 * 5 = 20."""
    first = linear([[1.0, 2.0], [0, 0], [0, 0], [3.0, 4.0]], [0.5, 2.0, -1.0, 0.0])
    second = linear([[7.0, 5.0, 6.0, 0.0]], [10.0])
    small = ep.export.shrink(nn.Sequential(first, nn.ReLU(), second))
    assert small[0].weight.tolist() == [[1.0, 2.0]]
    assert small[0].bias.tolist() == [0.5]
    assert (small[0].out_features, small[2].in_features) == (1, 1)
    assert small[2].weight.tolist() == [[7.0]]
    assert small[2].bias.tolist() == [20.0]


def test_a_bias_is_made_where_a_layer_has_none() -> None:
    model = nn.Sequential(linear([[1.0], [0.0]], [0.0, 3.0]), nn.Linear(2, 1, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 2.0]])
    small = ep.export.shrink(model)
    assert small[1].bias.tolist() == [6.0]
    assert small(torch.tensor([[4.0]])).tolist() == model(torch.tensor([[4.0]])).tolist() == [[10.0]]


@pytest.mark.parametrize(
    ("padding", "mode", "left"),
    [(0, "zeros", 1), (1, "reflect", 1), ("valid", "zeros", 1), (1, "zeros", 2), ("same", "zeros", 2)],
)
def test_constant_channels_before_a_convolution(padding: object, mode: str, left: int) -> None:
    """Zeros at the border keep one constant channel, which stands for all three."""
    model = drawn(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, padding=padding, padding_mode=mode))
    )
    model[0].weight.data[1:] = 0
    x = inputs(1, 8, 8)
    small = ep.export.shrink(model)
    assert small[0].out_channels == small[1].num_features == small[2].in_channels == left
    assert torch.allclose(outputs(small, x), outputs(model, x), rtol=1e-12, atol=1e-12)


def test_channels_of_a_sum_go_only_if_they_go_from_all_branches() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.one(x) + self.two(x)))

    model = drawn(Sum)
    model.one.weight.data[[0, 1]] = 0  # constant in one branch, and in both
    model.two.weight.data[[1]] = 0
    small = ep.export.shrink(model)
    assert small.one.out_channels == small.two.out_channels == small.last.in_channels == 3
    x = inputs(2, 3, 3)
    assert torch.allclose(outputs(small, x), outputs(model, x), rtol=1e-12, atol=1e-12)


def test_flattened_channels_take_all_their_features_along() -> None:
    model = drawn(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2)))
    model[4].weight.data[:, 4:8] = 0
    small = ep.export.shrink(model)
    assert small[0].out_channels == 2
    assert small[4].in_features == small[3].num_features == 8
    x = inputs(1, 4, 4)
    assert torch.allclose(outputs(small, x), outputs(model, x), rtol=1e-12, atol=1e-12)


def test_a_network_without_any_path_keeps_a_channel_in_each_layer() -> None:
    model = drawn(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    for layer in model[::2]:
        layer.weight.data.zero_()
    small = ep.export.shrink(model)
    assert [small[0].out_features, small[2].out_features, small[4].out_features] == [1, 1, 2]
    assert torch.equal(outputs(small, inputs(3)), outputs(model, inputs(3)))


class InPlace(nn.Module):
    """A value that is changed in place, and read again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = torch.relu_(y.view(y.size(0), -1))
        return self.last(y + z)


class Block(nn.Module):
    """A block of a residual network as other packages write it: activations and sums in place, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.shortcut, self.relu, self.drop = nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        identity = self.shortcut(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        out = nn.functional.adaptive_avg_pool2d(self.drop(self.relu(out)), (1, 1))
        out = nn.functional.dropout(torch.flatten(out, 1), 0.5, self.training)
        return self.fc(out * 0.5 + 1)


def test_a_block_with_operations_in_place() -> None:
    model = drawn(Block).to(memory_format=torch.channels_last)
    model.conv1.weight.data[[0, 3]] = 0
    model.bn1.bias.data[[0, 3]] = 3.0  # positive constants
    model.conv2.weight.data[[1, 5]] = 0
    model.shortcut.weight.data[[1]] = 0
    x = inputs(3, 6, 6)
    expected = outputs(model, x)
    small = ep.export.shrink(model)
    assert small.conv1.out_channels == 5  # one of the two stands for both
    assert small.conv2.out_channels == small.fc.in_features == 7
    assert torch.allclose(outputs(small, x), expected, rtol=1e-12, atol=1e-12)


class Literal(nn.Module):
    """The number of channels stands in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x).view(-1, 16))


class Choosing(nn.Module):
    """A path that depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) if x.sum() > 0 else x @ self.first.weight.T)


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (InPlace, (3,), "relu_ in forward changes a value in place"),
        (Literal, (1, 2, 2), r"conv \(read by view in forward\)"),
        (Choosing, (3,), "torch.fx cannot follow Choosing"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), (3,), r"0 \(read by 1 \(LayerNorm\)\)"),
        (lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2)), (2, 3, 3), r"0 \(read by 1 \(Conv2d\)\)"),
        (NETWORKS["twice"][0], (6,), r"hidden \(is used several times\)"),
        (NETWORKS["tied"][0], (6,), r"second \(shares a weight"),
    ],
)
def test_parts_that_cannot_be_followed_keep_their_width_and_are_named(
    make: Callable[[], nn.Module], shape: tuple[int, ...], message: str
) -> None:
    model, x = drawn(make), inputs(*shape)
    for name, parameter in model.named_parameters():
        if name in prunable(model):
            parameter.data[0] = 0
    expected = outputs(model, x.clone())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        small = ep.export.shrink(model)
    text = " ".join(str(warning.message) for warning in said)
    assert re.search(message, text), text
    assert torch.allclose(outputs(small, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [Attending, lambda: Recurrent(nn.LSTM)])
def test_attention_and_recurrent_layers_stay_whole(make: Callable[[], nn.Module]) -> None:
    x = inputs(5, 4)
    model = made(make, x.float()).double().eval()
    small = ep.export.shrink(model)
    assert size(small) == size(model)
    assert torch.equal(outputs(small, x), outputs(model, x))


def test_a_mask_and_plain_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    bits = torch.ones(4, 3, dtype=torch.bool)
    bits[1] = False
    mask = ep.Mask.from_layers({"0.weight": bits, "2.weight": torch.ones(2, 4)})
    assert ep.export.shrink(model, mask)[0].out_features == 3
    assert model[0].weight[1].ne(0).all()
    with pytest.raises(ep.InputError, match="has no 'a'"):
        ep.export.shrink(model, ep.Mask.from_layers({"a": bits}))
    with pytest.raises(ep.InputError, match=r"prune.remove"):
        ep.export.shrink(ep.export.apply(mask, model))
    with pytest.raises(ep.InputError, match="model is int"):
        ep.export.shrink(3)
