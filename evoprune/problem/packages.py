"""Networks of other packages, by names such as ``timm:resnet18``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import ModuleType

from torch import nn

from evoprune.errors import InputError
from evoprune.problem.convolutional import image_of


def from_timm(name: str) -> Callable[..., nn.Module]:
    """Returns the function that makes a network of timm, without pretrained weights.

    Args:
        name: Its name in ``timm.list_models()``.

    Raises:
        InputError: timm cannot be imported, or has no network of the name.
    """
    timm = _imported("timm", "timm", name)
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models(), "timm.list_models()")
    return partial(_timm_network, timm, name)


def from_torchvision(name: str) -> Callable[..., nn.Module]:
    """Returns the function that makes a network of torchvision for classification, without pretrained weights.

    Args:
        name: Its name in ``torchvision.models.list_models(torchvision.models)``.

    Raises:
        InputError: torchvision cannot be imported, or has no network of the name.
    """
    models = _imported("torchvision", "torchvision.models", name)
    known = models.list_models(models)
    if name not in known:
        raise _unknown("torchvision", name, known, "torchvision.models.list_models(torchvision.models)")
    return partial(_torchvision_network, models, name)


# The functions by the package, which is the part of a name before the colon, and the optional extra that installs it.
PACKAGES: dict[str, Callable[[str], Callable[..., nn.Module]]] = {"timm": from_timm, "torchvision": from_torchvision}


def _imported(package: str, module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package that does not fit torch raises others than ImportError
        raise InputError(
            f"the model '{package}:{name}' is of the package {package}, which cannot be imported: {type(error).__name__}: "
            f"{error}. Install it, in a version that fits torch: pip install 'evoprune[{package}]'."
        ) from error


def _unknown(package: str, name: str, known: Iterable[str], listed_by: str) -> InputError:
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f" Did you mean {' or '.join(repr(f'{package}:{other}') for other in near)}?" if near else ""
    return InputError(f"{package} has no network {name!r}; expected one of those that {listed_by} lists.{hint}")


def _timm_network(timm: ModuleType, name: str, input_shape: Sequence[int], classes: int) -> nn.Module:
    channels, height, width = image_of(f"timm:{name}", input_shape)
    make = partial(timm.create_model, name, pretrained=False, num_classes=classes, in_chans=channels)
    return _sized(make, img_size=(height, width))


def _torchvision_network(models: ModuleType, name: str, input_shape: Sequence[int], classes: int) -> nn.Module:
    channels, height, _ = image_of(f"torchvision:{name}", input_shape)
    if channels != 3:
        raise InputError(
            f"inputs have the shape {tuple(input_shape)}; torchvision's networks take images of 3 channels. Repeat the "
            f"channel, as by x.expand(-1, 3, -1, -1), or use a network of timm, which takes any number."
        )
    return _sized(partial(models.get_model, name, weights=None, num_classes=classes), image_size=height)


def _sized(make: Callable[..., nn.Module], **size: object) -> nn.Module:
    """Makes a network for a size of images if it takes one: transformers do, and most convolutional networks do not."""
    try:
        return make(**size)
    except TypeError as error:
        if next(iter(size)) not in str(error):
            raise
    return make()
