"""Augmentation: random changes of training batches, as they are stored, before pixels are normalised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problem.examples import Examples
from evoprune.registry import Registry, describe

# Changes a batch [b, ...]; draws from the global generators of torch, numpy or Python.
Augmentation: TypeAlias = Callable[[Tensor], Tensor]


def flip(batch: Tensor) -> Tensor:
    """Mirrors each image from left to right with probability 1/2, as torchvision's ``RandomHorizontalFlip`` does.

    Args:
        batch: Images [b, ..., width].
    """
    _require_images("flip", batch)
    chosen = torch.rand(len(batch)) < 0.5
    return torch.where(_by_example(chosen, batch), batch.flip(-1), batch)


def crop(batch: Tensor, padding: int) -> Tensor:
    """Pads each image with zeros on all sides and cuts out one of its size at random, as torchvision's ``RandomCrop`` does.

    This is the augmentation of CIFAR of He et al. (2016, "Deep Residual Learning", section 4.2), with a padding of 4 and
    :func:`flip`.

    Args:
        batch: Images [b, ..., height, width].
        padding: Pixels on each side.
    """
    _require_images("crop", batch)
    height, width = batch.shape[-2:]
    padded = F.pad(batch, [padding] * 4)
    top, left = torch.randint(2 * padding + 1, (2, len(batch)))
    rows = _by_example((top[:, None] + torch.arange(height)).to(batch.device), padded, at=-2)
    padded = padded.gather(-2, rows.expand(*padded.shape[:-2], height, padded.shape[-1]))
    columns = _by_example((left[:, None] + torch.arange(width)).to(batch.device), padded, at=-1)
    return padded.gather(-1, columns.expand(*padded.shape[:-1], width))


def _require_images(name: str, batch: Tensor) -> None:
    if batch.ndim < 3:
        raise InputError(
            f"the augmentation {name!r} is given inputs {tuple(batch.shape)}; expected images [n, channels, height, width]: "
            f"reshape the inputs, or leave it out."
        )


def _by_example(values: Tensor, batch: Tensor, at: int = 0) -> Tensor:
    """Returns values [b] or [b, m] with further dimensions, the m in the place ``at``, to be used with a batch."""
    shape = [len(values), *[1] * (batch.ndim - 1)]
    if at:
        shape[at] = values.shape[1]
    return values.to(batch.device).view(shape)


def _make_crop(padding: str) -> Augmentation:
    several = ", and several changes with blanks between them, such as crop:4 flip" if "," in padding else ""
    if not padding.isdecimal() or not 1 <= int(padding) <= 1000:
        raise InputError(f"augment is 'crop:{padding}'; expected a number of pixels to pad with, such as crop:4{several}.")
    return partial(crop, padding=int(padding))


def _function(given: Any) -> Augmentation:
    if not callable(given):
        raise InputError(f"augment has {given!r}; expected a name, such as 'flip', or a function that changes a batch.")
    found: Augmentation = given
    return found


AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation",
    {"flip": flip},
    _function,
    {"crop": _make_crop},
    meant={"crop": "crop:4", "crop4": "crop:4", "random-crop": "crop:4", "horizontal-flip": "flip", "random-flip": "flip"},
)


def find_augmentations(given: Any) -> tuple[tuple[str, ...], tuple[Augmentation, ...]]:
    """Returns names and functions of the augmentations that a user gives.

    Args:
        given: A name or function, or several, which are applied in turn.

    Raises:
        InputError: An unknown name, or anything else.
    """
    each: Sequence[Any] = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    return tuple(AUGMENTATIONS.name_of(one) for one in each), tuple(AUGMENTATIONS.find(one) for one in each)


def rehearse(augmentations: Sequence[Augmentation], inputs: Tensor | Examples) -> None:
    """Tries augmentations on a few inputs.

    Raises:
        InputError: One fails, or gives another batch when it is seeded as before.
    """
    few = inputs.raw(torch.arange(min(8, len(inputs)))) if isinstance(inputs, Examples) else inputs[:8]
    try:
        one, other = (augment(augmentations, 0, few.clone()) for _ in range(2))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"augment fails on inputs {tuple(few.shape)} of {few.dtype}: {type(error).__name__}: {error}"
        ) from error
    if not torch.equal(one, other):
        raise InputError(
            "augment gives another batch from the same seed; expected draws from the global generators of torch, numpy or "
            "Python's random, which are seeded for each batch, and none from a generator that it keeps."
        )


def augment(augmentations: Sequence[Augmentation], seed: int, batch: Tensor) -> Tensor:
    """Returns a batch that is changed by augmentations in turn.

    Args:
        augmentations: The augmentations.
        seed: Seeds all that they draw; the global generators are left as they were.
        batch: The batch [b, ...].

    Raises:
        InputError: One returns no tensor of as many examples of the same shape.
    """
    with seeds.seeded(seed, str(batch.device)):
        for change in augmentations:
            before, batch = batch, change(batch)
            if not isinstance(batch, Tensor) or batch.shape != before.shape:
                found = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
                raise InputError(
                    f"the augmentation {describe(change)} returned {found} for a batch {tuple(before.shape)}; expected a batch "
                    f"of the same shape."
                )
    return batch
