"""Convolutional networks of the literature on pruning, of any width."""

from __future__ import annotations

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
    width = _one_width(f"conv-{depth}", widths, 64)
    channels, height, breadth = _image(f"conv-{depth}", input_shape, 2**pairs)
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
    width = _one_width(f"resnet-{depth}", widths, 16)
    channels, _, _ = _image(f"resnet-{depth}", input_shape, 1)
    return ResNet(channels, classes, width, (depth - 2) // 6)


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
        self.stage1 = _stage(width, width, 1, blocks)
        self.stage2 = _stage(width, 2 * width, 2, blocks)
        self.stage3 = _stage(2 * width, 4 * width, 2, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [batch, classes]."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


def _stage(channels: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(channels, width, stride), *(Block(width, width, 1) for _ in range(blocks - 1)))


def _one_width(name: str, widths: Sequence[int], usual: int) -> int:
    if len(widths) != 1:
        raise InputError(
            f"widths are {tuple(widths)} for {name}; expected one number, the channels of its first layer, such as {usual}. "
            f"All other widths are multiples of it. For others, give a network of your own."
        )
    return widths[0]


def _image(name: str, input_shape: Sequence[int], least: int) -> tuple[int, int, int]:
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
