"""Networks by name, and how their initial weights are drawn."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init

from evoprune.errors import InputError, look_up

PRUNABLE_MODULES = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


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


def prunable(network: nn.Module, exclude: Sequence[str] = ()) -> dict[str, torch.Size]:
    """Returns name and shape of the prunable weights, in ``named_parameters`` order.

    Prunable are the weights of linear and convolutional layers; never biases, never normalisation.

    Args:
        network: The network.
        exclude: Names of parameters (``fc3.weight``) or of modules (``fc3``: all weights in it).

    Raises:
        InputError: An excluded name that fits nothing, or nothing left to prune.
    """
    weights = {id(module.weight) for module in network.modules() if isinstance(module, PRUNABLE_MODULES)}
    candidates = {name: p.shape for name, p in network.named_parameters() if id(p) in weights}
    if not candidates:
        raise InputError("nothing to prune: the network has no linear or convolutional layer with a plain weight.")
    for given in exclude:
        if not any(_is_in(name, given) for name in candidates):
            raise InputError(
                f"cannot exclude {given!r}: no prunable weights of that name; expected one of "
                f"{', '.join(candidates)}, or a module that holds some."
            )
    left = {name: shape for name, shape in candidates.items() if not any(_is_in(name, given) for given in exclude)}
    if not left:
        raise InputError(f"nothing to prune: all of {', '.join(candidates)} are excluded.")
    return left


def uses(network: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, int]:
    """Returns how often an example's forward pass uses each element of some weights.

    Once in a linear layer on vectors, once at each position of a convolution's output.

    Args:
        network: The network, whose mode is changed.
        names: Names of the weights, of layers that are prunable.
        x: One example, [1, ...].
    """
    wanted = {id(parameter): name for name, parameter in network.named_parameters() if name in names}
    found = dict.fromkeys(names, 0)

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        if (name := wanted.get(id(module.weight))) is not None:
            transposed = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
            where = inputs[0] if transposed else output
            found[name] += where.numel() // module.weight.shape[0]

    for module in network.eval().modules():
        if isinstance(module, PRUNABLE_MODULES):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(x)
    return found


def initialize(network: nn.Module, method: str, seed: int) -> None:
    """Draws the network's parameters anew, in place.

    Args:
        network: The network; its normalisation layers are reset to their defaults.
        method: ``kaiming`` (normal, fan in, gain of ReLU; He et al. 2015, eq. 10), ``xavier`` (normal; Glorot and
            Bengio 2010, eq. 12), both with zero biases; ``pytorch`` (each layer's own default); ``given`` (the
            values that it has).
        seed: Seeds the draws; torch's global state is left as it was.

    Raises:
        InputError: An unknown method.
    """
    draw = look_up("initialization", method, INITIALIZATIONS)
    if draw is None:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
            if isinstance(module, PRUNABLE_MODULES):
                draw(module.weight, module.bias)


def scale_for_density(network: nn.Module, densities: dict[str, float]) -> None:
    """Scales weights by 1 / sqrt(density), in place, so that a masked layer keeps the variance of its output.

    With a fraction d of its inputs left, a unit's pre-activation has d times the variance (He et al. 2015, eq. 7, with
    d * fan_in inputs).

    Args:
        network: The network.
        densities: Density in (0, 1] by parameter name.

    Raises:
        InputError: A density outside (0, 1], or a name that the network has not.
    """
    parameters = dict(network.named_parameters())
    for name, density in densities.items():
        weight = look_up("prunable weights", name, parameters)
        if not 0 < density <= 1:
            raise InputError(f"W0 is to be scaled for a density of {density} in {name}; expected one in (0, 1].")
        with torch.no_grad():
            weight.div_(math.sqrt(density))


def _kaiming(weight: Tensor, bias: Tensor | None) -> None:
    init.kaiming_normal_(weight, nonlinearity="relu")
    if bias is not None:
        init.zeros_(bias)


def _xavier(weight: Tensor, bias: Tensor | None) -> None:
    init.xavier_normal_(weight)
    if bias is not None:
        init.zeros_(bias)


def _keep(weight: Tensor, bias: Tensor | None) -> None:
    """Leaves what ``reset_parameters`` drew."""


INITIALIZATIONS: dict[str, Callable[[Tensor, Tensor | None], None] | None] = {
    "kaiming": _kaiming,
    "xavier": _xavier,
    "pytorch": _keep,
    "given": None,
}


def _is_in(name: str, given: str) -> bool:
    return name == given or name.startswith(f"{given}.")
