"""The ``module`` engine: any network, one individual at a time; the reference for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evoprune.engines.dense import DensePopulation
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.problem.precision import in_precision
from evoprune.problem.problem import Problem


class ModulePopulation(DensePopulation):
    """One masked copy of the problem's network; see :class:`evoprune.engines.population.Population`.

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
        self.masks, self.precision = list(masks), problem.recipe.precision
        self.network = problem.network()
        parameters = dict(self.network.named_parameters())
        self.weights = [parameters[name] for name in problem.shapes]
        self.remove()

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs [1, batch, ...]."""
        outputs: Tensor = in_precision(self.network, x, self.precision)
        return outputs.unsqueeze(0)

    def individual_first(self, tensor: Tensor) -> Tensor:
        """Returns a view [1, ...] of a tensor shaped like a parameter."""
        return tensor.unsqueeze(0)

    def find_removed(self) -> list[Tensor]:
        """Returns a tensor for each layer, true where the mask is false."""
        return [torch.from_numpy(~layer) for layer in self.masks[0].layers.values()]

    def survivor_values(self, k: int, tensors: Sequence[Tensor]) -> Tensor:
        """Returns the survivors' values; k is 0."""
        pairs = zip(tensors, self.removed, strict=True)
        return torch.cat([tensor.detach()[~removed] for tensor, removed in pairs])

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Sets parameters and buffers."""
        self.network.load_state_dict(states[0])

    def unpack(self, k: int, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns the tensors by the parameters' names; k is 0."""
        names = [name for name, _ in self.network.named_parameters()]
        return dict(zip(names, tensors, strict=True))

    def pack(self, dense: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """Returns copies of the tensors in the order of the parameters."""
        return [dense[0][name].clone() for name, _ in self.network.named_parameters()]

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns a copy of the network's ``state_dict``; k is 0."""
        return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
