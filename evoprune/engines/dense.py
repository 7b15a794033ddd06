"""Populations that keep removed weights in place, as zeros: the common base of the dense engines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evoprune.masks.mask import Mask


class DensePopulation(nn.Module):
    """A population whose weights have a place for every weight; see :class:`evoprune.engines.population.Population`.

    Attributes:
        masks: The masks, one an individual.
        weights: The parameters that hold the prunable weights.
        removed: For each of ``weights``, true at the removed ones.
        precision: Precision of forward passes, see :func:`evoprune.problem.precision.in_precision`.
    """

    masks: list[Mask]
    weights: list[nn.Parameter]
    removed: list[Tensor]
    precision: str = "full"

    @abstractmethod
    def find_removed(self) -> list[Tensor]:
        """Returns, for each of ``weights``, a tensor of its shape that is true where the masks are false."""

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

    def remove(self) -> None:
        """Sets ``removed`` from the masks, and the weights there to zero."""
        self.removed = [removed.to(self.weights[0].device) for removed in self.find_removed()]
        self.mask_weights()

    @torch.no_grad()
    def set_masks(
        self, masks: Sequence[Mask], optimizer: torch.optim.Optimizer, carried: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Replaces the masks; all tensors keep their shapes."""
        before = self.removed
        self.masks = list(masks)
        self.remove()
        grown = [old & ~now for old, now in zip(before, self.removed, strict=True)]
        for weight, new in zip(self.weights, grown, strict=True):
            for memory in optimizer.state.get(weight, {}).values():
                if isinstance(memory, Tensor) and memory.shape == new.shape:
                    memory.masked_fill_(new, 0.0)  # from before the weight was removed
        return [tensor.masked_fill(new, 0.0) for tensor, new in zip(carried, grown, strict=False)]
