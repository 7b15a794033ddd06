"""Networks that have a name."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from torch import nn

from evoprune.errors import InputError
from evoprune.options import parameters_of
from evoprune.problem.convolutional import conv, lenet_5, resnet, resnet_18, vgg
from evoprune.problem.packages import PACKAGES
from evoprune.problem.patches import mlp_mixer, vit_tiny
from evoprune.registry import Registry


@dataclass(frozen=True)
class NamedModel:
    """A network's entry in the registry.

    Attributes:
        make: Function that returns the network. It is called by keyword with those of ``input_shape`` (the shape of one input),
            ``classes`` (the number of outputs) and ``widths`` (of the hidden layers) that it needs.
        widths: The default hidden widths; None if the function has its own, or none.
        loss: The loss that it is made for; None lets the data decide.
        is_built_in: It takes floats, and its initial weights are drawn by ``kaiming`` unless the user says otherwise. A
            network of the user's keeps its weights, and its inputs their type.
        package: The other package that brings the network. Such a network takes floats, and keeps the weights that the package
            draws, by the seed of W0, unless the user says otherwise.
    """

    make: Callable[..., nn.Module]
    widths: tuple[int, ...] | None = None
    loss: str | None = None
    is_built_in: bool = False
    package: str | None = None

    @property
    def own(self) -> Callable[..., nn.Module] | None:
        """The function if it is the user's, else None: then the name is enough to make the network again."""
        return None if self.is_built_in or self.package else self.make

    @property
    def takes_floats(self) -> bool:
        """Whether its inputs are made floats; those of a user's network keep their type."""
        return self.own is None

    def takes(self, name: str) -> bool:
        """Tells whether the function needs an argument, such as ``classes``.

        A parameter with a default keeps it, since the class of a network may have a parameter of such a name by chance.
        """
        parameter = parameters_of(self.make).get(name)
        return parameter is not None and parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD

    def build(self, input_shape: Sequence[int], classes: int, widths: Sequence[int] | None = None) -> Any:
        """Returns the network, with parameters as its layers draw them.

        Args:
            input_shape: Shape of one input.
            classes: Number of outputs.
            widths: Hidden widths; None for the default.

        Raises:
            InputError: Widths are not positive integers, or the function takes none.
        """
        chosen = self.widths if widths is None else tuple(widths)
        if chosen is not None and "widths" not in parameters_of(self.make):
            raise InputError(f"widths are {widths}; they go with a model that takes widths, such as mlp.")
        if any(not isinstance(width, int) or width < 1 for width in chosen or ()):
            raise InputError(f"widths are {chosen}; expected positive integers, such as 300 100.")
        given = {"input_shape": tuple(input_shape), "classes": classes}
        arguments = {name: value for name, value in given.items() if self.takes(name)}
        return self.make(**arguments, **({} if chosen is None else {"widths": chosen}))


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
        widths: Widths from the first hidden layer to the code, at least one; the decoder takes them in reverse.

    Raises:
        InputError: No widths.
    """
    if not widths:
        raise InputError(f"widths are {widths}; expected positive integers, such as 300 100.")
    network = mlp(input_shape, math.prod(input_shape), [*widths, *reversed(widths[:-1])])
    network.add_module("unflatten", nn.Unflatten(1, tuple(input_shape)))
    return network


def _lenet_300_100(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> nn.Sequential:
    """The fully connected LeNet of LeCun et al. (1998): two hidden layers of 300 and 100."""
    if tuple(widths) != (300, 100):
        raise InputError(f"widths {tuple(widths)} for lenet-300-100, which has (300, 100); use the model 'mlp'.")
    return mlp(input_shape, classes, widths)


def _as_model(given: NamedModel | Callable[..., nn.Module]) -> NamedModel:
    if isinstance(given, NamedModel):
        return given
    if isinstance(given, nn.Module):
        raise InputError(
            f"the model is a {type(given).__name__}, a module; expected a function or class that makes it, so that its weights "
            f"depend on the seed, or the module itself in Python: ep.Problem(model=module)."
        )
    if not callable(given):
        raise InputError(f"model is {type(given).__name__}; expected a name, a torch.nn.Module, or a function that makes one.")
    return NamedModel(given)


def _of_package(package: str, name: str) -> NamedModel:
    return NamedModel(PACKAGES[package](name), package=package)


MODELS: Registry[NamedModel] = Registry(
    "model",
    {
        "lenet-300-100": NamedModel(_lenet_300_100, (300, 100), "cross-entropy", True),
        "mlp": NamedModel(mlp, (128, 64), "cross-entropy", True),
        "autoencoder": NamedModel(autoencoder, (256, 64), "reconstruction", True),
        "conv-2": NamedModel(partial(conv, depth=2), (64,), "cross-entropy", True),
        "conv-4": NamedModel(partial(conv, depth=4), (64,), "cross-entropy", True),
        "conv-6": NamedModel(partial(conv, depth=6), (64,), "cross-entropy", True),
        "resnet-8": NamedModel(partial(resnet, depth=8), (16,), "cross-entropy", True),
        "resnet-20": NamedModel(partial(resnet, depth=20), (16,), "cross-entropy", True),
        "resnet-18": NamedModel(resnet_18, (64,), "cross-entropy", True),
        "lenet-5": NamedModel(lenet_5, (20,), "cross-entropy", True),
        "vgg-11-bn": NamedModel(partial(vgg, depth=11), (64,), "cross-entropy", True),
        "vgg-16-bn": NamedModel(partial(vgg, depth=16), (64,), "cross-entropy", True),
        "mlp-mixer": NamedModel(mlp_mixer, (128,), "cross-entropy", True),
        "vit-tiny": NamedModel(vit_tiny, (192,), "cross-entropy", True),
    },
    _as_model,
    {package: partial(_of_package, package) for package in PACKAGES},
    takes_files=True,
)


def usual_initialization(name: str) -> str:
    """Returns the initialization of a network by name where the user gives none, without importing another package."""
    return "given" if name.partition(":")[0] in MODELS.families and name not in MODELS else "kaiming"


def build(name: str, input_shape: Sequence[int], classes: int, widths: Sequence[int] | None = None) -> nn.Module:
    """Builds a network by name, with parameters as its layers draw them.

    Raises:
        InputError: An unknown name, or widths that are not positive integers.
    """
    network: nn.Module = MODELS.find(name).build(input_shape, classes, widths)
    return network
