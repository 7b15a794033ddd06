import math

import pytest
import torch
from support.models import NARROW
from torch import fx, nn

import evoprune as ep
from evoprune.errors import InputError
from evoprune.problem.convolutional import Block
from evoprune.problem.models import MODELS, build
from evoprune.problem.prunable import prunable

CONV = ["conv-2", "conv-4", "conv-6"]
RESNET = ["resnet-8", "resnet-20"]
LARGER = ["lenet-5", "vgg-11-bn", "vgg-16-bn", "resnet-18"]
CIFAR = (3, 32, 32)


def shapes_of(network):
    return {name: tuple(shape) for name, shape in prunable(network).items()}


def count(network, kind=nn.Module):
    return sum(p.numel() for module in network.modules() if isinstance(module, kind) for p in module.parameters(recurse=False))


def images(shape=(1, 8, 8), n=40):
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
    return ep.Data(train=(x, torch.arange(n) % 4))


# Sizes


@pytest.mark.parametrize(
    ("name", "channels"), [("conv-2", [64, 64]), ("conv-4", [64, 64, 128, 128]), ("conv-6", [64, 64, 128, 128, 256, 256])]
)
def test_conv_has_the_weights_of_the_paper(name, channels):
    side = 32 // 2 ** (len(channels) // 2)
    inputs = [3, *channels[:-1]]
    expected = {f"conv{i + 1}.weight": (channels[i], inputs[i], 3, 3) for i in range(len(channels))}
    expected |= {"fc1.weight": (256, channels[-1] * side**2), "fc2.weight": (256, 256), "fc3.weight": (10, 256)}
    network = build(name, CIFAR, 10)
    assert shapes_of(network) == expected
    assert count(network) == sum(math.prod(shape) + shape[0] for shape in expected.values())


@pytest.mark.parametrize(
    ("name", "weights", "in_convolutions"),
    [("conv-2", 4_300_992, 38_592), ("conv-4", 2_425_024, 259_776), ("conv-6", 2_261_184, 1_144_512)],
)
def test_conv_on_cifar_10_has_known_numbers_of_weights(name, weights, in_convolutions):
    shapes = shapes_of(build(name, CIFAR, 10)).values()
    assert sum(map(math.prod, shapes)) == weights
    assert sum(math.prod(shape) for shape in shapes if len(shape) == 4) == in_convolutions


@pytest.mark.parametrize(("name", "blocks"), [("resnet-8", 1), ("resnet-20", 3)])
@pytest.mark.parametrize("w", [4, 16])
def test_resnet_by_hand(name, blocks, w):
    network = build(name, CIFAR, 10, [w])
    inner = sum(2 * 9 * v * v * blocks for v in (w, 2 * w, 4 * w)) - 9 * (2 * w * w + 4 * w * 2 * w)  # two begin narrower
    shortcuts = w * 2 * w + 2 * w * 4 * w
    assert count(network, nn.Conv2d) == 27 * w + inner + shortcuts
    assert count(network, nn.BatchNorm2d) == 2 * (w + 2 * blocks * (w + 2 * w + 4 * w) + 2 * w + 4 * w)
    assert count(network, nn.Linear) == 4 * w * 10 + 10
    assert sum(map(math.prod, shapes_of(network).values())) == count(network, nn.Conv2d) + 4 * w * 10
    assert sum(isinstance(module, Block) for module in network.modules()) == 3 * blocks


def test_resnet_20_has_0_27_million_parameters():
    # 269,722 with shortcuts that have no parameters, and two 1 x 1 convolutions with batch normalisation
    assert count(build("resnet-20", CIFAR, 10)) == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def test_lenet_5_on_mnist_has_430_500_weights_and_580_biases():
    network = build("lenet-5", (1, 28, 28), 10)
    assert shapes_of(network) == {
        "conv1.weight": (20, 1, 5, 5), "conv2.weight": (50, 20, 5, 5), "fc1.weight": (500, 800), "fc2.weight": (10, 500),
    }  # fmt: skip
    assert sum(map(math.prod, shapes_of(network).values())) == 430_500
    assert count(network) == 430_500 + 580 == 431_080


# as jvlmdr/flax-cifar states for 32 x 32 images of 3 channels and 10 classes
PUBLISHED = [("vgg-11-bn", 9_228_362, 8), ("vgg-16-bn", 14_724_042, 13), ("resnet-18", 11_173_962, 17)]


@pytest.mark.parametrize(("name", "parameters", "convolutions"), PUBLISHED)
def test_parameters_are_as_many_as_published(name, parameters, convolutions):
    network = build(name, CIFAR, 10)
    assert count(network) == parameters
    assert count(network, nn.Linear) == 512 * 10 + 10
    assert sum(shape[2:] == (3, 3) for shape in shapes_of(network).values()) == convolutions


@pytest.mark.parametrize(("name", "biases"), [("vgg-11-bn", 2_752), ("vgg-16-bn", 4_224)])
def test_vgg_has_no_biases_that_normalisation_removes(name, biases):
    network = build(name, CIFAR, 10)
    convolutions = [module for module in network if isinstance(module, nn.Conv2d)]
    assert all(convolution.bias is None for convolution in convolutions)
    assert sum(convolution.out_channels for convolution in convolutions) == biases


@pytest.mark.parametrize("name", [name for name in LARGER if name != "lenet-5"])
def test_all_widths_are_multiples_of_the_first(name):
    whole, narrow = (shapes_of(build(name, CIFAR, 10, [width])) for width in (64, 4))
    for layer, shape in whole.items():
        outputs = shape[0] if layer == "fc.weight" else shape[0] // 16
        inputs = shape[1] if layer == "conv1.weight" else shape[1] // 16
        assert narrow[layer] == (outputs, inputs, *shape[2:])


def test_lenet_5_of_another_width():
    shapes = shapes_of(build("lenet-5", CIFAR, 10, [3]))
    assert [shape[0] for shape in shapes.values()] == [3, 7, 75, 10]
    assert shapes["fc1.weight"] == (75, 7 * 5 * 5)


def test_layers_have_readable_names():
    assert list(shapes_of(build("resnet-8", CIFAR, 10))) == [
        "conv1.weight",
        *(f"stage1.0.conv{i}.weight" for i in (1, 2)),
        *(f"stage{s}.0.{layer}.weight" for s in (2, 3) for layer in ("conv1", "conv2", "shortcut.conv")),
        "fc.weight",
    ]  # fmt: skip
    assert [name for name, _ in build("conv-2", CIFAR, 10).named_children()] == [
        "conv1", "relu1", "conv2", "relu2", "pool1", "flatten", "fc1", "relu3", "fc2", "relu4", "fc3",
    ]  # fmt: skip


@pytest.mark.parametrize("name", CONV)
def test_all_widths_of_conv_are_multiples_of_the_first(name):
    whole, narrow = (shapes_of(build(name, CIFAR, 10, [width])) for width in (64, 16))
    for layer, shape in whole.items():
        outputs = shape[0] if layer == "fc3.weight" else shape[0] // 4
        inputs = shape[1] if layer == "conv1.weight" else shape[1] // 4
        assert narrow[layer] == (outputs, inputs, *shape[2:])


# The forward pass


def test_conv_2_by_hand():
    network = build("conv-2", (1, 9, 8), 3, [2])
    x = torch.randn(5, 1, 9, 8)
    hidden = torch.relu(network.conv2(torch.relu(network.conv1(x))))
    pooled = hidden[:, :, :8].reshape(5, 2, 4, 2, 4, 2).amax((3, 5))  # an odd last row is left out
    hidden = torch.relu(network.fc2(torch.relu(network.fc1(pooled.flatten(1)))))
    torch.testing.assert_close(network(x), network.fc3(hidden))


def test_lenet_5_by_hand():
    network = build("lenet-5", (1, 16, 17), 3, [2])
    x = torch.randn(5, 1, 16, 17)
    pooled = network.conv1(x)[:, :, :, :12].reshape(5, 2, 6, 2, 6, 2).amax((3, 5))  # 12 x 13, whose last column is left out
    features = network.conv2(pooled).amax((2, 3))
    torch.testing.assert_close(network(x), network.fc2(torch.relu(network.fc1(features))))


@pytest.mark.parametrize(
    ("shape", "pools"), [((3, 32, 32), 4), ((1, 28, 28), 4), ((1, 16, 20), 4), ((1, 8, 8), 3), ((1, 3, 9), 1), ((1, 1, 5), 0)]
)
@pytest.mark.parametrize("name", ["vgg-11-bn", "vgg-16-bn"])
def test_vgg_pools_as_often_as_the_image_allows(name, shape, pools):
    network = build(name, shape, 10, [2])
    assert sum(isinstance(module, nn.MaxPool2d) for module in network) == pools
    features = network[:-3](torch.randn(3, *shape))
    assert features.shape == (3, 16, *(side // 2**pools for side in shape[1:]))
    torch.testing.assert_close(network[-3:](features), network.fc(features.mean((2, 3))))


def test_the_layers_of_vgg_11_are_in_the_order_of_the_paper():
    group = ["Conv2d", "BatchNorm2d", "ReLU"]
    ends = ["AdaptiveAvgPool2d", "Flatten", "Linear"]
    pooled = [*group, "MaxPool2d"]
    expected = pooled + pooled + group + pooled + group + pooled + group + group + ends
    assert [type(module).__name__ for module in build("vgg-11-bn", CIFAR, 10, [2])] == expected


@pytest.mark.parametrize("shape", [(1, 28, 28), CIFAR])
def test_resnet_18_has_four_stages(shape):
    network = build("resnet-18", shape, 5, [2]).eval()
    x = torch.randn(2, *shape)
    features, sizes = torch.relu(network.bn1(network.conv1(x))), []
    for stage in (network.stage1, network.stage2, network.stage3, network.stage4):
        features = stage(features)
        sizes.append(tuple(features.shape[1:]))
        assert sum(isinstance(module, Block) for module in stage) == 2
    assert sizes == [(2 * n, *(math.ceil(side / n) for side in shape[1:])) for n in (1, 2, 4, 8)]
    torch.testing.assert_close(network(x), network.fc(features.mean((2, 3))))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_adds_its_shortcut(stride):
    block = Block(4, 4 * stride, stride).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(3, 4, 8, 8)
    expected = x if stride == 1 else block.shortcut.bn(block.shortcut.conv(x))
    assert expected.shape == (3, 4 * stride, 8 // stride, 8 // stride)
    torch.testing.assert_close(block(x), torch.relu(expected))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), CIFAR, (2, 13, 7)])
def test_stages_halve_the_image_and_double_the_channels(shape):
    network = build("resnet-8", shape, 5, [3]).eval()
    x = torch.randn(2, *shape)
    features, sizes = torch.relu(network.bn1(network.conv1(x))), []
    for stage in (network.stage1, network.stage2, network.stage3):
        features = stage(features)
        sizes.append(tuple(features.shape[1:]))
    assert sizes == [(3 * n, *(math.ceil(side / n) for side in shape[1:])) for n in (1, 2, 4)]
    torch.testing.assert_close(network(x), network.fc(features.mean((2, 3))))


@pytest.mark.parametrize("name", [*CONV, *RESNET, *NARROW])
def test_torch_fx_traces_it(name):
    shape = (1, 16, 16) if name == "lenet-5" else (1, 8, 8)
    network = build(name, shape, 10, NARROW.get(name, [2])).eval()
    x = torch.randn(3, *shape)
    torch.testing.assert_close(fx.symbolic_trace(network)(x), network(x))


# Input that does not fit


@pytest.mark.parametrize("widths", [(), (16, 32), (64, 64, 128)])
@pytest.mark.parametrize("name", [*CONV, *RESNET, *NARROW])
def test_one_width_is_expected(name, widths):
    numbers, usual = ", ".join(map(str, widths)), MODELS[name].widths[0]
    with pytest.raises(InputError, match=rf"widths are \({numbers}\) for {name}; expected one number, .* such as {usual}\. "):
        build(name, (1, 8, 8), 10, widths)


@pytest.mark.parametrize("width", [0, -1, 2.5])
@pytest.mark.parametrize("name", ["conv-2", "resnet-8"])
def test_a_width_is_a_positive_integer(name, width):
    with pytest.raises(InputError, match="expected positive integers"):
        build(name, (1, 8, 8), 10, [width])


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 1, 8, 8)])
@pytest.mark.parametrize("name", ["conv-2", "resnet-8", *NARROW])
def test_inputs_that_are_no_images_are_refused(name, shape):
    with pytest.raises(InputError, match=rf"{name} expects images \(channels, height, width\).*reshape.* use the model 'mlp'"):
        ep.Problem(name, images(shape))


@pytest.mark.parametrize(("name", "least"), [("conv-2", 2), ("conv-4", 4), ("conv-6", 8), ("lenet-5", 16)])
def test_images_too_small_to_be_pooled_are_refused(name, least):
    assert build(name, (1, least, least), 10, [2])(torch.randn(3, 1, least, least)).shape == (3, 10)
    with pytest.raises(InputError, match=f"{name} expects images of at least {least} x {least} pixels. Use larger images"):
        build(name, (1, 2 * least, least - 1), 10, [2])


# Pruned


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", CONV + RESNET)
def test_k_starts_of_a_few_steps(name):
    problem = ep.Problem(name, images(), ep.Recipe(epochs=2, batch_size=16), widths=(2,), exclude=["conv1"])
    result = ep.k_starts(problem, k=2, sparsity=0.5, fitness_epochs=1, engine="module", controls=False)
    assert "conv1.weight" not in result.mask.layers
    assert result.mask.survivors == round(0.5 * problem.prunable_count)
    state = result.model.state_dict()
    for layer, kept in result.mask.layers.items():
        assert not state[layer][torch.from_numpy(~kept)].any()
        assert (state[layer] != problem.network().state_dict()[layer])[torch.from_numpy(kept)].any() or not kept.any()
