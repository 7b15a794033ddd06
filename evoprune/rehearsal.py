"""A rehearsal: whether network, data, loss and recipe fit together, found out before any long work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evoprune.data import is_labels
from evoprune.errors import InputError

if TYPE_CHECKING:
    from evoprune.problem import Problem


def rehearse(problem: Problem) -> bool:
    """Tries one training step on a copy, and an evaluation of each part of the data.

    Returns:
        Whether accuracy is defined: the targets are class labels, and the network has an output for each.

    Raises:
        InputError: Something does not fit.
    """
    network = problem.network()
    x, target = problem.part("train")
    # the smallest batch of an epoch: a last batch of one example is what batch normalisation refuses
    where = "train"
    size = len(x) % problem.recipe.batch_size or problem.recipe.batch_size
    try:
        with torch.random.fork_rng(devices=[]):
            outputs = network(x[:size])
            is_classification = _has_classes(problem, outputs)
            _check_labels(problem, outputs)
            if problem.loss_name in ("mse", "reconstruction") and outputs.shape != target[:size].shape:
                raise InputError(
                    f"outputs are {tuple(outputs.shape)}, targets {tuple(target[:size].shape)}; expected the same."
                )
            loss = problem.loss(outputs, target[:size])
            if loss.ndim != 0:
                raise InputError(f"the loss has shape {tuple(loss.shape)}; expected the batch's mean, a scalar.")
            loss.backward()  # type: ignore[no-untyped-call]
            problem.recipe.make_optimizer(list(network.parameters())).step()
            for part in ("validation", "test"):
                where, (x, target) = part, problem.part(part)
                with torch.no_grad():
                    problem.loss(network.eval()(x[:size]), target[:size])
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"one training step failed on {where} inputs {tuple(x[:size].shape)} ({x.dtype}) and targets "
            f"{tuple(target[:size].shape)} ({target.dtype}) with loss {problem.loss_name!r}: {type(error).__name__}: {error}"
        ) from error
    return is_classification


def _has_classes(problem: Problem, outputs: Tensor) -> bool:
    y = problem.data.train[1]
    if problem.loss_name == "reconstruction" or not is_labels(y) or outputs.ndim != y.ndim + 1:
        return False
    return outputs.shape[1] > int(y.max())


def _check_labels(problem: Problem, outputs: Tensor) -> None:
    if problem.loss_name != "cross-entropy" or not is_labels(problem.data.train[1]):
        return
    for part, (_, y) in problem.data.parts().items():
        if int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]:
            raise InputError(
                f"{part} has labels from {int(y.min())} to {int(y.max())}, but the network has {outputs.shape[1]} outputs; "
                f"expected labels from 0 to {outputs.shape[1] - 1}."
            )
