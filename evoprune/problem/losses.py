"""Losses by name, the losses of a population, and the loss of chance."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evoprune.errors import InputError, look_up
from evoprune.problem.arrays import is_labels
from evoprune.problem.data import Data, count_classes
from evoprune.problem.network import describe
from evoprune.problem.options import ProblemOptions

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {
    "cross-entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "reconstruction": F.mse_loss,  # the target is the input
}
SQUARED = ("mse", "reconstruction")


def choose_loss(given: str | Loss | None, targets: Tensor) -> tuple[str, Loss]:
    """Returns name and function of the loss that a user gives; without one, the targets decide.

    Raises:
        InputError: An unknown name.
    """
    if given is None:
        given = "cross-entropy" if is_labels(targets) else "mse"
    if isinstance(given, str):
        return given, look_up("loss", given, LOSSES)
    return describe(given), given


def with_options(name: str, loss: Loss, options: ProblemOptions, data: Data) -> Loss:
    """Returns a loss with the label smoothing and class weights that options name.

    Args:
        name: The loss's name.
        loss: The loss.
        options: The options.
        data: The split data.

    Raises:
        InputError: The loss is not cross-entropy by name, there is not a weight for each class, or a class is missing.
    """
    smoothing, weights = options.label_smoothing, options.class_weights
    if not smoothing and weights is None:
        return loss
    if name != "cross-entropy":
        raise InputError(
            f"label_smoothing is {smoothing} and class_weights {weights}, but the loss is {name!r}; they go with the loss "
            f"'cross-entropy': leave them out, or give a loss of yours that has them."
        )
    keywords: dict[str, Any] = {"label_smoothing": smoothing}
    if weights is not None:
        keywords["weight"] = _class_weights(weights, data).to(data.train[1].device, getattr(torch, options.dtype))
    return functools.partial(F.cross_entropy, **keywords)


def _class_weights(weights: str | tuple[float, ...], data: Data) -> Tensor:
    targets = data.train[1]
    if not is_labels(targets):
        raise InputError(f"class_weights are {weights}, but the targets are no class labels; expected labels, or no weights.")
    classes = count_classes(data)
    if not isinstance(weights, str):
        if len(weights) != classes:
            raise InputError(f"class_weights are {len(weights)} numbers, {weights}; expected {classes}, one a class.")
        return torch.tensor(weights, dtype=torch.float64)
    counts = torch.bincount(targets.flatten(), minlength=classes).double()
    if missing := (counts == 0).nonzero().flatten().tolist():
        raise InputError(
            f"class_weights are 'balanced', but no training example is of the classes {missing}; expected all {classes}, or "
            f"{classes} numbers as weights."
        )
    return targets.numel() / (classes * counts)


def weight_of(loss: Loss, targets: Tensor) -> Tensor | int:
    """Returns the weight of a batch in the mean over several: the divisor of the batch's mean loss.

    Cross-entropy divides by the sum of its labels' weights, without those that it ignores. Other losses divide by the number of
    examples.

    Args:
        loss: The loss.
        targets: The batch's targets [n, ...].
    """
    if isinstance(loss, functools.partial) and loss.func is F.cross_entropy and is_labels(targets):
        weights, ignored = loss.keywords.get("weight"), loss.keywords.get("ignore_index", -100)
    elif type(loss) is nn.CrossEntropyLoss and loss.reduction == "mean" and is_labels(targets):
        weights, ignored = loss.weight, loss.ignore_index
    else:
        return len(targets)
    counted: Tensor = targets != ignored
    return counted.sum() if weights is None else (weights[targets.clamp(min=0)] * counted).double().sum()


def losses_of(name: str, loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean loss [K] of outputs [K, batch, ...] against one target [batch, ...].

    Args:
        name: The loss's name; built-in losses are computed for all K at once.
        loss: The loss.
        outputs: Outputs of K networks.
        targets: The targets that each of them is compared with.
    """
    if loss is F.cross_entropy and name == "cross-entropy" and outputs.ndim == 3 and targets.ndim == 1:
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


def chance_loss(name: str, target: Tensor, loss: Loss | None = None, outputs: int = 0) -> float | None:
    """Returns the loss of the best prediction that ignores the input; None under a loss of the user's own.

    For cross-entropy it is the entropy of the classes in nats; for squared errors the variance of the targets around their
    mean, over all elements.

    Args:
        name: The loss's name.
        target: The targets.
        loss: The loss, which may have class weights and label smoothing; None for neither.
        outputs: Number of the network's outputs, over which labels are smoothed.
    """
    if name == "cross-entropy" and is_labels(target):
        return _entropy(target, loss.keywords if isinstance(loss, functools.partial) else {}, outputs)
    if name in SQUARED:
        return float((target.double() - target.double().mean(0)).square().mean())
    return None


def _entropy(target: Tensor, keywords: Mapping[str, Any], outputs: int) -> float:
    """Returns the least cross-entropy that one prediction for all examples has."""
    weight, smoothing = keywords.get("weight"), keywords.get("label_smoothing", 0.0)
    classes = outputs if weight is None else len(weight)
    parts = torch.bincount(target.flatten(), minlength=classes).double() / target.numel()
    if not keywords:
        return float(torch.special.entr(parts).sum())
    # a sum over the classes of parts of minus the logarithm, least where the probabilities are as the parts
    weights = torch.ones_like(parts) if weight is None else weight.double()
    whole = (parts * weights).sum()
    parts = (parts + smoothing * (1 / len(parts) - parts)) * weights / whole
    return float(torch.special.entr(parts).sum() + torch.special.xlogy(parts.sum(), parts.sum()))
