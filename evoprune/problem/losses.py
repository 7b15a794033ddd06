"""Losses by name, the losses of a population, and the loss of chance."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evoprune.problem.arrays import is_labels

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {
    "cross-entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "reconstruction": F.mse_loss,  # the target is the input
}
SQUARED = ("mse", "reconstruction")


def losses_of(name: str, loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean loss [K] of outputs [K, batch, ...] against one target [batch, ...].

    Args:
        name: The loss's name; built-in losses are computed for all K at once.
        loss: The loss.
        outputs: Outputs of K networks.
        targets: The targets that each of them is compared with.
    """
    if name == "cross-entropy" and outputs.ndim == 3 and targets.ndim == 1:
        logarithms = outputs.transpose(1, 2).log_softmax(1)  # classes in the middle, as the sparse engine's memory has them
        return -logarithms.gather(1, targets.expand(len(outputs), 1, -1)).squeeze(1).mean(1)
    if name in SQUARED:
        # in two steps, so that each sum is short enough to be one thread's
        squares = (outputs - targets).square()
        return squares.mean(1) if squares.ndim == 2 else squares.flatten(2).mean(2).mean(1)
    return torch.stack([loss(output, targets) for output in outputs])


def on_device(loss: Loss, device: str) -> Loss:
    """Returns a loss with its tensors, such as weights of classes, on a device: a copy, if it is a module with others."""
    if not isinstance(loss, nn.Module):
        return loss
    place = torch.empty(0, device=device).device
    tensors = [*loss.parameters(), *loss.buffers()]
    return loss if all(tensor.device == place for tensor in tensors) else copy.deepcopy(loss).to(place)


def chance_loss(name: str, target: Tensor) -> float | None:
    """Returns the loss of the best prediction that ignores the input; None under a loss of the user's own.

    For cross-entropy it is the entropy of the classes in nats; for squared errors the variance of the targets around their
    mean, over all elements.
    """
    if name == "cross-entropy" and is_labels(target):
        frequencies = torch.bincount(target.flatten()).double() / target.numel()
        return float(torch.special.entr(frequencies).sum())
    if name in SQUARED:
        return float((target.double() - target.double().mean(0)).square().mean())
    return None
