"""Batches as the kernels take them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines.population import Stint
from evoprune.engines.sparse.kernels import codes
from evoprune.engines.sparse.trace import Network
from evoprune.problem.problem import Problem

# The most multiply-adds of one call of a kernel, about a fifth of a second: Ctrl-C waits for it.
WORK = 1e9
# The most bytes of dropout's noise of one call.
NOISE = 4_000_000
# The most bytes of inputs of one call that do not lie ready.
COPIES = 8_000_000


def steps_at_once(network: Network, problem: Problem, work: float) -> int:
    """Returns how many steps one call takes.

    Args:
        network: The network.
        problem: The problem.
        work: Multiply-adds of a step.
    """
    batch = problem.recipe.batch_size
    noise = batch * network.program.noise_places * 8
    copied = 0 if _lie_ready(problem) else batch * math.prod(problem.data.train[0].shape[1:]) * 8
    most = [WORK // (work + 1), NOISE // noise if noise else np.inf, COPIES // copied if copied else np.inf]
    return int(np.clip(min(most), 1, 10_000))


def examples(problem: Problem, stint: Stint, part: slice) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Returns inputs and targets of some steps, and each step's rows in them: all of the training data where they lie ready."""
    if _lie_ready(problem):
        x, target = problem.part("train")
        return x[:], target[:], stint.rows[part]
    inputs, targets = zip(*stint.batches(problem, part), strict=True)
    rows = torch.split(torch.arange(sum(map(len, inputs))), [len(each) for each in inputs])
    return torch.cat(inputs), torch.cat(targets), list(rows)


def _lie_ready(problem: Problem) -> bool:
    """Tells whether the training inputs are in memory as the kernels take them."""
    return isinstance(problem.data.train[0], Tensor) and not problem.augmentations


def gather(network: Network, x: Tensor, rows: Sequence[Tensor], target: Tensor | None, kind: int, noisy: bool) -> codes.Data:
    """Returns the examples of some steps for the kernels.

    Args:
        network: The network.
        x: All inputs.
        rows: The examples of each step.
        target: All targets; None for a loss that torch computes.
        kind: The kind of loss.
        noisy: Dropout draws, step by step, as its modules do.
    """
    sizes = np.array([len(each) for each in rows], np.int64)
    padded = np.zeros((len(rows), sizes.max()), np.int64)
    inputs = _flat(x)
    nothing = inputs[:0]
    noise = np.zeros((len(rows) if noisy and network.noises else 0, sizes.max() * network.program.noise_places), inputs.dtype)
    for step, each in enumerate(rows):
        padded[step, : len(each)] = each.numpy()
        if len(noise):
            drawn = [module.train()(torch.ones(len(each), *shape, dtype=x.dtype)) for module, shape in network.noises]
            together = _flat(torch.cat([one.flatten(1) for one in drawn], 1))
            noise[step, : len(together)] = together
    is_labels = target is not None and kind == codes.CROSS_ENTROPY
    is_squared = target is not None and kind == codes.SQUARED
    return codes.Data(
        inputs=inputs,
        targets=_flat(target) if is_squared and target is not None else nothing,
        labels=_flat(target) if is_labels and target is not None else np.zeros(0, np.int64),
        noise=noise,
        rows=padded,
        sizes=sizes,
    )


def make_room(network: Network, blocks: int, input_blocks: int, longest: int, dtype: np.dtype[Any]) -> codes.Room:
    """Returns room for the values of so many blocks, the inputs of so many, and individuals of so many parameters."""
    program = network.program
    examples, size = input_blocks * program.batch, blocks * program.batch * program.places

    def zeros(length: int) -> NDArray[Any]:
        return np.zeros(length, dtype)

    return codes.Room(
        values=zeros(size),
        gradients=zeros(program.batch * max(blocks * program.slope_places, network.unshared.slope_places)),
        saved=zeros(network.saved),
        scratch=zeros(3 * program.width),
        slopes=zeros(longest),
        inputs=zeros(examples * program.in_places),
        targets=zeros(examples * len(program.outputs)),
        labels=np.zeros(examples, np.int64),
        noise=zeros(examples * program.noise_places),
        real=zeros(examples),
        indices=np.zeros(0, np.int32),
        zero=dtype.type(0),
    )


def _flat(tensor: Tensor) -> NDArray[Any]:
    """Returns the numbers of examples one after another, without a copy where they lie so."""
    return np.ascontiguousarray(tensor.detach().numpy()).reshape(-1)
