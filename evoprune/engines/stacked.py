"""The ``stacked`` engine: parameters stacked over individuals, dense; any network that ``torch.func`` can follow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from evoprune.mask import Mask
from evoprune.problem import Problem


class StackedPopulation(nn.Module):
    """K masked networks with parameters [K, ...]; see :class:`evoprune.engines.Population`.

    Args:
        problem: The problem; training starts from its W0.
        masks: The masks.

    Raises:
        InputError: A mask that does not fit the network.
    """

    def __init__(self, problem: Problem, masks: Sequence[Mask]) -> None:
        super().__init__()
        for mask in masks:
            mask.require(problem.shapes)
        self.size = len(masks)
        network = problem.network()
        self._call = [network]  # in a list: its own parameters are not to be trained
        self.names = [name for name, _ in network.named_parameters()]
        self.stacked = nn.ParameterList([nn.Parameter(self._stack(p), p.requires_grad) for p in network.parameters()])
        self.stacked_buffers = {name: self._stack(b) for name, b in network.named_buffers()}
        by_name = dict(zip(self.names, self.stacked, strict=True))
        self.weights: list[nn.Parameter] = [by_name[name] for name in problem.shapes]
        layers = [mask.layers for mask in masks]
        self.removed = [
            torch.from_numpy(np.stack([~layer[name] for layer in layers])).to(problem.device) for name in problem.shapes
        ]
        self.mask_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs [K, batch, ...]."""
        (network,) = self._call
        network.train(self.training)
        parameters = dict(zip(self.names, self.stacked, strict=True))

        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            outputs: Tensor = functional_call(network, (parameters, buffers), (x,))
            return outputs

        outputs: Tensor = vmap(call, randomness="same")(parameters, self.stacked_buffers)
        return outputs

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

    def survivor_sums(self, tensors: Sequence[Tensor]) -> NDArray[np.float64]:
        """Returns sums [K] over each individual's survivors."""
        totals = np.zeros(self.size)
        for tensor, removed in zip(tensors, self.removed, strict=True):
            pairs = zip(tensor.detach(), removed, strict=True)
            totals += [values[~gone].cpu().numpy().astype(np.float64).sum() for values, gone in pairs]
        return totals

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns the ``state_dict`` of individual k."""
        (network,) = self._call
        tensors = dict(zip(self.names, self.stacked, strict=True)) | self.stacked_buffers
        dense = dict(network.named_parameters()) | dict(network.named_buffers())
        by_identity = {id(dense[name]): tensor for name, tensor in tensors.items()}  # a tied tensor has several names
        state = network.state_dict(keep_vars=True)
        return {name: by_identity[id(tensor)].detach()[k].clone() for name, tensor in state.items()}

    def remove(self, removed: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Removes survivors for good, in the middle of training."""
        for before, now in zip(self.removed, removed, strict=True):
            before |= now
        self.mask_weights()

    def _stack(self, tensor: Tensor) -> Tensor:
        return tensor.detach().expand(self.size, *tensor.shape).clone()
