"""The ``stacked`` engine: parameters stacked over individuals, dense; any network that ``torch.func`` can follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from evoprune.engines.dense import DensePopulation
from evoprune.masks.mask import Mask
from evoprune.problem.fused import plain_attention
from evoprune.problem.precision import in_precision
from evoprune.problem.problem import Problem


class StackedPopulation(DensePopulation):
    """K masked networks with parameters [K, ...]; see :class:`evoprune.engines.population.Population`.

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
        self.size, self.masks, self.precision = len(masks), list(masks), problem.recipe.precision
        network = problem.network()
        self._call = [network]  # in a list, which hides it from parameters(): they are not to be trained
        self.names = [name for name, _ in network.named_parameters()]
        self.stacked = nn.ParameterList([nn.Parameter(self._stack(p), p.requires_grad) for p in network.parameters()])
        self.stacked_buffers = {name: self._stack(b) for name, b in network.named_buffers()}
        by_name = dict(zip(self.names, self.stacked, strict=True))
        self.weights: list[nn.Parameter] = [by_name[name] for name in problem.shapes]
        # other problems with attention are older than this, and their arithmetic stays
        prunable = {id(parameter) for name, parameter in network.named_parameters() if name in problem.shapes}
        attentions = (module for module in network.modules() if isinstance(module, nn.MultiheadAttention))
        self._attends = any(id(p) in prunable for module in attentions for p in module.parameters(recurse=False))
        self.remove()

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs [K, batch, ...]."""
        (network,) = self._call
        network.train(self.training)
        parameters = dict(zip(self.names, self.stacked, strict=True))

        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            outputs: Tensor = functional_call(network, (parameters, buffers), (x,))
            return outputs

        def call_all(x: Tensor) -> Tensor:
            outputs: Tensor = vmap(call, randomness="same")(parameters, self.stacked_buffers)
            return outputs

        with plain_attention() if self._attends else nullcontext():
            outputs: Tensor = in_precision(call_all, x, self.precision)
        return outputs

    def individual_first(self, tensor: Tensor) -> Tensor:
        """Returns a tensor shaped like a parameter, which is [K, ...] already."""
        return tensor

    def find_removed(self) -> list[Tensor]:
        """Returns a tensor for each layer, stacked over the individuals, true where the masks are false."""
        layers = [mask.layers for mask in self.masks]
        return [torch.from_numpy(np.stack([~layer[name] for layer in layers])) for name in layers[0]]

    def survivor_values(self, k: int, tensors: Sequence[Tensor]) -> Tensor:
        """Returns the survivors' values."""
        pairs = zip(tensors, self.removed, strict=True)
        return torch.cat([tensor.detach()[k][~removed[k]] for tensor, removed in pairs])

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns the ``state_dict`` of individual k."""
        (network,) = self._call
        tensors = dict(zip(self.names, self.stacked, strict=True)) | self.stacked_buffers
        dense = dict(network.named_parameters()) | dict(network.named_buffers())
        by_identity = {id(dense[name]): tensor for name, tensor in tensors.items()}  # a tied tensor has several names
        state = network.state_dict(keep_vars=True)
        return {name: by_identity[id(tensor)].detach()[k].clone() for name, tensor in state.items()}

    @torch.no_grad()
    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Sets parameters and buffers."""
        for parameter, values in zip(self.stacked, self.pack(states), strict=True):
            parameter.copy_(values)
        for name in self.stacked_buffers:
            if name in states[0]:  # a buffer that is not saved keeps its first value
                self.stacked_buffers[name] = torch.stack([state[name] for state in states])

    def unpack(self, k: int, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns the tensors of individual k by the parameters' names."""
        return {name: tensor[k] for name, tensor in zip(self.names, tensors, strict=True)}

    def pack(self, dense: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """Returns the tensors stacked, in the order of the parameters."""
        return [torch.stack([tensors[name] for tensors in dense]) for name in self.names]

    def _stack(self, tensor: Tensor) -> Tensor:
        return tensor.detach().expand(self.size, *tensor.shape).clone()
