"""The ``module`` engine: any network, one individual at a time; the reference for the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evoprune.errors import InputError
from evoprune.mask import Mask
from evoprune.problem import Problem


class ModulePopulation(nn.Module):
    """One masked copy of the problem's network; see :class:`evoprune.engines.Population`.

    Args:
        problem: The problem; training starts from its W0.
        masks: One mask.

    Raises:
        InputError: Not exactly one mask, or one that does not fit the network.
    """

    size = 1

    def __init__(self, problem: Problem, masks: Sequence[Mask]) -> None:
        super().__init__()
        if len(masks) != 1:
            raise InputError(f"{len(masks)} masks; the engine 'module' takes one at a time.")
        masks[0].require(problem.shapes)
        self.network = problem.network()
        parameters = dict(self.network.named_parameters())
        self.weights = [parameters[name] for name in problem.shapes]
        self.removed = [torch.from_numpy(~layer).to(problem.device) for layer in masks[0].layers.values()]
        self.mask_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs [1, batch, ...]."""
        return self.network(x).unsqueeze(0)  # type: ignore[no-any-return]

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Sets the gradients of removed weights to zero."""
        for weight, removed in zip(self.weights, self.removed, strict=True):
            if weight.grad is not None:
                weight.grad.masked_fill_(removed, 0.0)

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Sets removed weights to zero."""
        for weight, removed in zip(self.weights, self.removed, strict=True):
            weight.masked_fill_(removed, 0.0)

    def remove(self, removed: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Removes survivors for good, in the middle of training."""
        for before, now in zip(self.removed, removed, strict=True):
            before |= now
        self.mask_weights()

    def survivor_sums(self, tensors: Sequence[Tensor]) -> NDArray[np.float64]:
        """Returns the sum over the survivors, [1]."""
        total = 0.0
        for tensor, removed in zip(tensors, self.removed, strict=True):
            # numpy's sums do not depend on the number of threads
            total += tensor.detach()[~removed].cpu().numpy().astype(np.float64).sum()
        return np.array([total])

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns a copy of the network's ``state_dict``; k is 0."""
        return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
