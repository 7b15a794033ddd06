"""Layer collapse: the connections that a mask cuts off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evoprune.masks.bits import Bits
from evoprune.problem.draws import Draws, draw
from evoprune.system.forks import settle

if TYPE_CHECKING:
    from evoprune.problem.problem import Problem

# The most parameters of a network whose draws are kept: they take 64 MiB, and the network that examples pass, 32 MiB.
MOST_KEPT = 1 << 22


@dataclass(frozen=True)
class Collapse:
    """The parts of a network that a mask cuts off; false if there are none.

    Attributes:
        empty_layers: Names of the weights without a survivor.
        unreached_outputs: Indices of the network's outputs (flattened) that no path from an input reaches; they are constant.
    """

    empty_layers: tuple[str, ...]
    unreached_outputs: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.empty_layers or self.unreached_outputs)

    def __str__(self) -> str:
        parts = []
        if self.empty_layers:
            parts.append(f"no survivors in {', '.join(self.empty_layers)}")
        if self.unreached_outputs:
            shown = ", ".join(map(str, self.unreached_outputs[:10]))
            more = ", ..." if len(self.unreached_outputs) > 10 else ""
            parts.append(f"no path to {len(self.unreached_outputs)} outputs ({shown}{more})")
        return "; ".join(parts)


def draws_of(problem: Problem) -> Draws:
    """Returns the draws for a problem, which it keeps unless they take much memory."""
    if problem.parameter_count <= MOST_KEPT:
        return problem.draws
    return draw(problem.network(), problem.data.train[0])


def unreached_outputs(problem: Problem, layers: Mapping[str, Bits]) -> tuple[int, ...]:
    """Sends examples through the surviving connections, and returns the outputs that are the same for all of them.

    The weights are drawn anew, so that no path cancels or vanishes. Every layer with weights has its output scaled,
    every other layer that keeps its input's shape passes its input on, and all others (flattening, pooling, functions)
    run as they are.
    """
    draws = draws_of(problem)
    if not problem.is_known or problem.parameter_count > MOST_KEPT:
        return _unreached(_passage(problem.network()), layers, draws)
    # copying the network takes longer than all else, but one of the user's may change as it is called
    settle()
    free: list[nn.Module] = problem.programs.setdefault("collapse", [])
    try:
        network = free.pop()
    except IndexError:  # the first call, or another thread has it
        with torch.inference_mode(False):
            network = _passage(problem.network())
    found = _unreached(network, layers, draws)
    free.append(network)
    return found


def _passage(network: nn.Module) -> nn.Module:
    """Prepares a network for drawn examples."""
    network = network.to("cpu", torch.float64).eval()
    for module in network.modules():
        if not any(module.children()):
            module.register_forward_hook(_pass_on)
    return network


def _unreached(network: nn.Module, layers: Mapping[str, Bits], draws: Draws) -> tuple[int, ...]:
    """Sends the drawn examples through a network that :func:`_passage` has prepared."""
    inputs, reached = draws.inputs.clone(), torch.tensor(False)  # a network may change its inputs in place
    with torch.no_grad():
        for drawn in draws.parameters:
            for name, parameter in network.named_parameters():
                if name in layers:
                    torch.mul(drawn[name], torch.from_numpy(layers[name]), out=parameter)
                else:
                    parameter.copy_(drawn[name])
            outputs = network(inputs)
            reached = reached | (outputs.amax(0) - outputs.amin(0) > 1e-9 * outputs.abs().amax(0))
            if reached.all():
                break
    return tuple(torch.nonzero(~reached.flatten()).flatten().tolist())


def _pass_on(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    if not isinstance(output, Tensor):
        return output
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim > 1:
        return output / output.abs().amax().clamp(min=1e-300)
    return inputs[0] if inputs and inputs[0].shape == output.shape else output
