"""Convolutional networks of the literature on pruning, of any width."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evoprune.errors import InputError


def conv(input_shape: Sequence[int], classes: int, widths: Sequence[int], depth: int) -> nn.Sequential:
    """Returns a small VGG: pairs of 3 x 3 convolutions, each followed by max pooling, and three linear layers.

    These are Conv-2, Conv-4 and Conv-6 of Frankle and Carbin (2019, "The Lottery Ticket Hypothesis", figure 2). There the first
    pair has 64 channels, each further pair has twice as many as the one before, and the hidden linear layers have 256 units.
    The layers are ``conv1``, ``conv2``, ... and ``fc1``, ``fc2``, ``fc3``, all with biases and, except for the last, with ReLU.

    Args:
        input_shape: Channels, height and width of an image.
        classes: Number of outputs.
        widths: One number, the channels of the first pair; the other widths are its multiples, as in the paper.
        depth: Number of convolutions, an even one.

    Raises:
        InputError: Not exactly one width, or inputs that are no images or too small to be halved so often.
    """
    pairs = depth // 2
    width = one_width(f"conv-{depth}", widths, 64)
    channels, height, breadth = image_of(f"conv-{depth}", input_shape, 2**pairs)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(depth):
        made = width * 2 ** (i // 2)
        layers[f"conv{i + 1}"] = nn.Conv2d(channels, made, 3, padding=1)
        layers[f"relu{i + 1}"] = nn.ReLU()
        if i % 2:
            layers[f"pool{i // 2 + 1}"] = nn.MaxPool2d(2)
        channels = made
    hidden = 4 * width
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(channels * (height >> pairs) * (breadth >> pairs), hidden)
    layers[f"relu{depth + 1}"] = nn.ReLU()
    layers["fc2"] = nn.Linear(hidden, hidden)
    layers[f"relu{depth + 2}"] = nn.ReLU()
    layers["fc3"] = nn.Linear(hidden, classes)
    return nn.Sequential(layers)


def lenet_5(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> nn.Sequential:
    """Returns the LeNet-5 of the literature on pruning, which is the one of Caffe's examples.

    Han et al. (2015, "Learning both Weights and Connections") and Lee et al. (2019, "SNIP") prune it. It goes back to LeCun et
    al. (1998, "Gradient-based learning applied to document recognition"). Two 5 x 5 convolutions of 20 and 50 channels are each
    followed by max pooling and no ReLU, as in SNIP's code; then come 500 units with ReLU, and the classes.

    On MNIST it has 430,500 weights and 580 biases: 431,080 parameters; Han et al. state 431K.

    Args:
        input_shape: Channels, height and width of an image.
        classes: Number of outputs.
        widths: One number w, the channels of the first layer; the others have 2.5 w (rounded down) and 25 w.

    Raises:
        InputError: Not exactly one width, or inputs that are no images of at least 16 x 16.
    """
    width = one_width("lenet-5", widths, 20)
    channels, height, breadth = image_of("lenet-5", input_shape, 16)
    second, hidden = 5 * width // 2, 25 * width
    positions = math.prod(((side - 4) // 2 - 4) // 2 for side in (height, breadth))
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(channels, width, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(width, second, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(second * positions, hidden),
            relu1=nn.ReLU(),
            fc2=nn.Linear(hidden, classes),
        )
    )


# Channels of the convolutions between poolings, as multiples of the first layer's.
_VGG: dict[int, tuple[tuple[int, ...], ...]] = {
    11: ((1,), (2,), (4, 4), (8, 8), (8, 8)),
    16: ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)),
}


def vgg(input_shape: Sequence[int], classes: int, widths: Sequence[int], depth: int) -> nn.Sequential:
    """Returns a VGG for small images: 3 x 3 convolutions with batch normalisation and ReLU, and one linear layer.

    The convolutions are those of Simonyan and Zisserman (2015, table 1, A and D), without biases, since normalisation removes
    them. Max pooling halves height and width between five groups, and the last group is averaged over all positions, as in the
    code of Liu et al. (2019, "Rethinking the Value of Network Pruning"). Pooling is left out where it would leave no pixels, as
    in images below 16 x 16.

    With 3 channels and 10 classes VGG-11 has 9,228,362 parameters, and VGG-16 has 14,724,042, as the GitHub repository
    jvlmdr/flax-cifar states. With biases in the convolutions, as in kuangliu/pytorch-cifar, there are 2,752 and 4,224 more.

    Args:
        input_shape: Channels, height and width of an image.
        classes: Number of outputs.
        widths: One number, the channels of the first layer, which are 64 in the papers; the others are its multiples.
        depth: Number of layers in the paper, 11 or 16, of which three are linear.

    Raises:
        InputError: Not exactly one width, or inputs that are no images.
    """
    width = one_width(f"vgg-{depth}-bn", widths, 64)
    channels, *sides = image_of(f"vgg-{depth}-bn", input_shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    count = 0
    for pools, group in enumerate(_VGG[depth]):
        if pools and min(sides) >> (pools - 1) > 1:
            layers[f"pool{pools}"] = nn.MaxPool2d(2)
        for multiple in group:
            count += 1
            layers[f"conv{count}"] = nn.Conv2d(channels, multiple * width, 3, padding=1, bias=False)
            layers[f"bn{count}"] = nn.BatchNorm2d(multiple * width)
            layers[f"relu{count}"] = nn.ReLU()
            channels = multiple * width
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)


def resnet(input_shape: Sequence[int], classes: int, widths: Sequence[int], depth: int) -> ResNet:
    """Returns a residual network for small images; see :class:`ResNet`.

    Args:
        input_shape: Channels, height and width of an image.
        classes: Number of outputs.
        widths: One number, the channels of the first stage, which are 16 in the paper.
        depth: Number of layers, 6 n + 2 for n blocks a stage.

    Raises:
        InputError: Not exactly one width, or inputs that are no images.
    """
    width = one_width(f"resnet-{depth}", widths, 16)
    channels, _, _ = image_of(f"resnet-{depth}", input_shape)
    return ResNet(channels, classes, width, (depth - 2) // 6)


def resnet_18(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> ResNet18:
    """Returns a residual network of 18 layers for small images; see :class:`ResNet18`.

    With 3 channels and 10 classes it has 11,173,962 parameters, as the GitHub repository jvlmdr/flax-cifar states.

    Args:
        input_shape: Channels, height and width of an image.
        classes: Number of outputs.
        widths: One number, the channels of the first stage, which are 64 in the paper.

    Raises:
        InputError: Not exactly one width, or inputs that are no images.
    """
    width = one_width("resnet-18", widths, 64)
    channels, _, _ = image_of("resnet-18", input_shape)
    return ResNet18(channels, classes, width)


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, added to a shortcut.

    The shortcut is the input itself, or a 1 x 1 convolution of it where the block changes the shape.

    Args:
        channels: Channels of the input.
        width: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            projection = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=projection, bn=nn.BatchNorm2d(width)))

    def forward(self, x: Tensor) -> Tensor:
        """Returns features [batch, width, height / stride, width / stride]."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """The residual network for CIFAR-10 of He et al. (2016, "Deep Residual Learning for Image Recognition", section 4.2).

    A 3 x 3 convolution is followed by three stages of blocks, global average pooling and a linear layer. The stages have w, 2 w
    and 4 w channels, and the second and third halve height and width.

    Where a stage changes the shape, the shortcut is a 1 x 1 convolution with batch normalisation, the paper's option B. For
    CIFAR-10 the paper takes option A, which subsamples and pads with zeros, and which not every engine can follow. The
    convolutions of the shortcuts are prunable like any other.

    Args:
        channels: Channels of an image.
        classes: Number of outputs.
        width: Channels of the first stage, w.
        blocks: Number of blocks of a stage.
    """

    def __init__(self, channels: int, classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stage1 = stage(width, width, 1, blocks)
        self.stage2 = stage(width, 2 * width, 2, blocks)
        self.stage3 = stage(2 * width, 4 * width, 2, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [batch, classes]."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


class ResNet18(nn.Module):
    """ResNet-18 of He et al. (2016, table 1) for small images: 3 x 3 instead of 7 x 7 at first, stride 1, and no max pooling.

    Most of the literature on CIFAR-10 has it so. A convolution is followed by four stages of two blocks, global average pooling
    and a linear layer. The stages have w, 2 w, 4 w and 8 w channels, and all but the first halve height and width.

    Args:
        channels: Channels of an image.
        classes: Number of outputs.
        width: Channels of the first stage, w.
    """

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stage1 = stage(width, width, 1, 2)
        self.stage2 = stage(width, 2 * width, 2, 2)
        self.stage3 = stage(2 * width, 4 * width, 2, 2)
        self.stage4 = stage(4 * width, 8 * width, 2, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [batch, classes]."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


def stage(channels: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    """Returns blocks of the same width one after another; the first has the stride."""
    return nn.Sequential(Block(channels, width, stride), *(Block(width, width, 1) for _ in range(blocks - 1)))


def one_width(name: str, widths: Sequence[int], usual: int) -> int:
    """Returns the one width that a network takes.

    Args:
        name: The network's name in the error.
        widths: The widths that were given.
        usual: The published width.

    Raises:
        InputError: Not exactly one width.
    """
    if len(widths) != 1:
        raise InputError(
            f"widths are {tuple(widths)} for {name}; expected one number, the channels of its first layer, such as {usual}. "
            f"All other widths are multiples of it. For others, give a network of your own."
        )
    return widths[0]


def image_of(name: str, input_shape: Sequence[int], least: int = 1) -> tuple[int, int, int]:
    """Returns channels, height and width of an image.

    Args:
        name: The network's name in the error.
        input_shape: Shape of one input.
        least: The smallest height and width that the network can take.

    Raises:
        InputError: The inputs are no images, or too small.
    """
    given = f"inputs have the shape {tuple(input_shape)}; {name} expects images"
    if len(input_shape) != 3:
        raise InputError(
            f"{given} (channels, height, width), such as (1, 28, 28). Reshape the inputs, as by x.reshape(-1, 1, 28, 28), or "
            f"use the model 'mlp'."
        )
    channels, height, width = input_shape
    if min(height, width) < least:
        raise InputError(f"{given} of at least {least} x {least} pixels. Use larger images, or the model 'mlp'.")
    return channels, height, width
