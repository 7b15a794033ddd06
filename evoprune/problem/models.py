"""Networks that have a name."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from evoprune.errors import InputError, look_up


@dataclass(frozen=True)
class NamedModel:
    """A network by name.

    Attributes:
        build: Called with the shape of one input, the number of classes and the hidden widths.
        widths: The default hidden widths.
        loss: The loss that it is made for.
    """

    build: Callable[[Sequence[int], int, Sequence[int]], nn.Module]
    widths: tuple[int, ...]
    loss: str


def mlp(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> nn.Sequential:
    """Returns a fully connected perceptron with ReLU between its layers ``fc1``, ``fc2``, ...

    Args:
        input_shape: Shape of one input; it is flattened.
        classes: Number of outputs.
        widths: Hidden widths, any number of them.
    """
    sizes = [math.prod(input_shape), *widths, classes]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{i}"] = nn.Linear(fan_in, fan_out)
        if i < len(sizes) - 1:
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


def autoencoder(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> nn.Sequential:
    """Returns a fully connected autoencoder whose decoder mirrors its encoder.

    The output has the input's shape and is linear, since normalised pixels are not confined to [0, 1].

    Args:
        input_shape: Shape of one input.
        classes: Ignored: an autoencoder reconstructs its input.
        widths: Widths from the first hidden layer to the code; the decoder takes them in reverse.
    """
    network = mlp(input_shape, math.prod(input_shape), [*widths, *reversed(widths[:-1])])
    network.add_module("unflatten", nn.Unflatten(1, tuple(input_shape)))
    return network


def _lenet_300_100(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> nn.Sequential:
    """The fully connected LeNet of LeCun et al. (1998): two hidden layers of 300 and 100."""
    if tuple(widths) != (300, 100):
        raise InputError(f"widths {tuple(widths)} for lenet-300-100, which has (300, 100); use the model 'mlp'.")
    return mlp(input_shape, classes, widths)


MODELS = {
    "lenet-300-100": NamedModel(_lenet_300_100, (300, 100), "cross-entropy"),
    "mlp": NamedModel(mlp, (128, 64), "cross-entropy"),
    "autoencoder": NamedModel(autoencoder, (256, 64), "reconstruction"),
}


def build(name: str, input_shape: Sequence[int], classes: int, widths: Sequence[int] | None = None) -> nn.Module:
    """Builds a network by name, with whatever values PyTorch gives its parameters.

    Raises:
        InputError: An unknown name, or widths that are not positive integers.
    """
    model = look_up("model", name, MODELS)
    widths = model.widths if widths is None else tuple(widths)
    if any(not isinstance(width, int) or width < 1 for width in widths) or (not widths and name == "autoencoder"):
        raise InputError(f"widths are {widths}; expected positive integers, such as 300 100.")
    return model.build(input_shape, classes, widths)
