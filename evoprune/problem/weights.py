"""Initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn import init

from evoprune import seeds
from evoprune.errors import InputError, look_up
from evoprune.problem.prunable import PRUNABLE_MODULES


def initialize(network: nn.Module, method: str, seed: int, names: Collection[str] = ()) -> None:
    """Draws the network's parameters anew, in place.

    Args:
        network: The network; its normalisation layers are reset to their defaults.
        method: ``kaiming`` (normal, fan in, gain of ReLU; He et al. 2015, eq. 10), ``xavier`` (normal; Glorot and
            Bengio 2010, eq. 12), both with zero biases; ``pytorch`` (each layer's own default); ``given`` (its
            present values). The first two are of linear and convolutional layers: other layers draw their own default, and
            parameters outside of layers keep their values.
        seed: Seeds the draws; torch's global state is left as it was.
        names: Names of the prunable weights; an attention draws its inputs' weights if they are among them.

    Raises:
        InputError: An unknown method.
    """
    draw = look_up("initialization", method, INITIALIZATIONS)
    if draw is None:
        return
    with seeds.seeded(seed):
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
            if isinstance(module, PRUNABLE_MODULES):
                draw(module.weight, module.bias)
        _reset_attention(network, names)


def _reset_attention(network: nn.Module, names: Collection[str]) -> None:
    """Draws the inputs of attention as torch does by default; their class has no public function for it."""
    wanted = {id(parameter) for name, parameter in network.named_parameters() if name in names}
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention) and any(id(p) in wanted for p in module.parameters(recurse=False)):
            module._reset_parameters()


def scale_for_density(network: nn.Module, densities: dict[str, float]) -> None:
    """Scales weights by 1 / sqrt(density), in place, so that a masked layer keeps the variance of its output.

    If a fraction d of its inputs is left, a unit's pre-activation has d times the variance (He et al. 2015, eq. 7, with
    d * fan_in inputs).

    Args:
        network: The network.
        densities: Density in (0, 1] by parameter name.

    Raises:
        InputError: A density outside (0, 1], or a name that is not in the network.
    """
    parameters = dict(network.named_parameters())
    for name, density in densities.items():
        weight = look_up("prunable weights", name, parameters)
        if not 0 < density <= 1:
            raise InputError(f"W0 is to be scaled for a density of {density} in {name}; expected one in (0, 1].")
        with torch.no_grad():
            weight.div_(math.sqrt(density))


def _kaiming(weight: Tensor, bias: Tensor | None) -> None:
    init.kaiming_normal_(weight, nonlinearity="relu")
    if bias is not None:
        init.zeros_(bias)


def _xavier(weight: Tensor, bias: Tensor | None) -> None:
    init.xavier_normal_(weight)
    if bias is not None:
        init.zeros_(bias)


def _keep(weight: Tensor, bias: Tensor | None) -> None:
    """Keeps the values that ``reset_parameters`` drew."""


INITIALIZATIONS: dict[str, Callable[[Tensor, Tensor | None], None] | None] = {
    "kaiming": _kaiming,
    "xavier": _xavier,
    "pytorch": _keep,
    "given": None,
}
