"""Inputs and weights that stand in for a problem's own, where only the connections matter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evoprune.problem.examples import Examples

EXAMPLES = 16


@dataclass(frozen=True)
class Draws:
    """Inputs and weights, drawn.

    Attributes:
        inputs: The inputs.
        parameters: All parameters by name, twice: positive weights pass a chain of functional ReLU, mixed signs one that
            negates; neither passes a cut.
    """

    inputs: Tensor
    parameters: tuple[dict[str, Tensor], ...]


def draw(network: nn.Module, x: Tensor | Examples) -> Draws:
    """Draws inputs and weights, as float64 on the CPU, the same each time.

    Args:
        network: The network, which is moved.
        x: Examples. Integers are indices, and keep their values.
    """
    few, draws = x[:EXAMPLES], torch.Generator().manual_seed(0)
    inputs = torch.randn(few.shape, generator=draws, dtype=torch.float64) if few.is_floating_point() else few.cpu()
    network = network.to("cpu", torch.float64)
    positive, mixed = (
        {name: torch.empty_like(parameter).normal_(generator=draws) for name, parameter in network.named_parameters()}
        for _ in range(2)
    )
    for name, values in positive.items():
        values.zero_() if name.endswith("bias") else values.abs_()
    return Draws(inputs, (positive, mixed))
