"""Losses and optimisers that the kernels know, and the dense gradient."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from evoprune.engines.sparse.kernels import codes
from evoprune.problem.arrays import is_labels
from evoprune.problem.optimizers import is_torchs
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe

# In the place of an optimiser where no step is taken.
NO_UPDATE = codes.Optimizer(codes.SGD, 0.0, 0.0, 0.0, 0.0, False, math.inf, math.inf, np.zeros(0, np.int64))


def loss_of(problem: Problem, outputs: tuple[int, ...]) -> codes.Loss | None:
    """Returns the problem's loss, if the kernels know it.

    Args:
        problem: The problem.
        outputs: Shape of one example's output.
    """
    name, options = _named(problem)
    target = problem.part("train")[1]
    if name == "cross-entropy" and len(outputs) == 1 and target.ndim == 1 and is_labels(target):
        weights = options.get("weight")
        given = np.ones(outputs[0]) if weights is None else weights.detach().double().numpy()
        return codes.Loss(codes.CROSS_ENTROPY, given, float(options.get("label_smoothing", 0.0)))
    if name == "mse" and tuple(target.shape[1:]) == outputs:
        return codes.Loss(codes.SQUARED, np.ones(1), 0.0)
    return None


def _named(problem: Problem) -> tuple[str, dict[str, Any]]:
    """Returns a loss's name and options; an empty name if it is none that the kernels know."""
    loss = problem.loss_function
    if problem.loss_name in ("mse", "reconstruction") and loss is F.mse_loss:
        return "mse", {}
    if loss is F.cross_entropy:
        return "cross-entropy", {}
    if type(loss) is nn.MSELoss and loss.reduction == "mean" and not _is_hooked(loss):
        return "mse", {}
    if type(loss) is nn.CrossEntropyLoss and loss.reduction == "mean" and loss.ignore_index == -100 and not _is_hooked(loss):
        return "cross-entropy", {"weight": loss.weight, "label_smoothing": loss.label_smoothing}
    given: Any = loss
    is_partial = isinstance(given, functools.partial) and given.func is F.cross_entropy and not given.args
    if is_partial and set(given.keywords) <= {"weight", "label_smoothing"}:
        return "cross-entropy", dict(given.keywords)
    return "", {}


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


@dataclass(frozen=True)
class Update:
    """An optimiser whose steps the kernels take, with its memory.

    Attributes:
        constants: Its constants.
        done: Steps that it has taken.
        memories: First and second memory of each vector; empty where there is none.
    """

    optimizer: torch.optim.Optimizer
    constants: codes.Optimizer
    done: int
    memories: list[tuple[torch.Tensor | None, torch.Tensor | None]]

    def finish(self, steps: int) -> None:
        """Notes so many more steps."""
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] += steps


def update_of(optimizer: torch.optim.Optimizer, vectors: Sequence[nn.Parameter]) -> Update | None:
    """Returns an optimiser that the kernels know, with memory of zero where it has none yet; None for others."""
    if len(optimizer.param_groups) != 1 or optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return None
    (group,) = optimizer.param_groups
    if any(group.get(name) for name in ("maximize", "amsgrad", "differentiable", "capturable")):
        return None
    names: tuple[str, ...]
    name = next((name for name in ("SGD", "Adam", "AdamW") if is_torchs(optimizer, name)), "")
    if name == "SGD":
        constants = _constants(codes.SGD, group["momentum"], group["dampening"], 0.0, group["weight_decay"], group["nesterov"])
        names = ("momentum_buffer",) if group["momentum"] else ()
    elif name:
        decoupled = group.get("decoupled_weight_decay", name == "AdamW")
        constants = _constants(codes.ADAM, group["betas"][0], group["betas"][1], group["eps"], group["weight_decay"], decoupled)
        names = ("exp_avg", "exp_avg_sq")
    else:
        return None
    started, steps = _remember(optimizer, vectors, names, counted=constants.kind == codes.ADAM)
    done = steps if constants.kind == codes.ADAM else int(started)
    return Update(optimizer, constants, done, [_memories(optimizer.state.get(v, {}), names) for v in vectors])


def _constants(kind: int, a: float, b: float, eps: float, decay: float, flag: bool) -> codes.Optimizer:
    """Returns constants of the types that the kernels were compiled for, without clipping."""
    return NO_UPDATE._replace(kind=int(kind), a=float(a), b=float(b), eps=float(eps), decay=float(decay), flag=bool(flag))


def as_recipe_says(constants: codes.Optimizer, recipe: Recipe, shapes: Sequence[torch.Size]) -> codes.Optimizer:
    """Returns an optimiser's constants with the recipe's clipping, and the parameters that do not decay.

    Args:
        constants: The constants.
        recipe: The recipe.
        shapes: Shape of each parameter.
    """
    flags = [len(shape) < 2 for shape in shapes] if recipe.decay == "weights" and constants.decay else []
    return constants._replace(
        clip_norm=math.inf if recipe.clip_norm is None else recipe.clip_norm,
        clip_value=math.inf if recipe.clip_value is None else recipe.clip_value,
        undecayed=np.array(flags, np.int64),
    )


def _remember(
    optimizer: torch.optim.Optimizer, vectors: Sequence[nn.Parameter], names: Sequence[str], counted: bool
) -> tuple[bool, int]:
    """Gives each vector the memory that the optimiser would; returns whether it had it before, and the steps taken."""
    started, steps = True, 0
    for vector in vectors:
        state = optimizer.state[vector] if names else {}
        for name in names:
            if not isinstance(state.get(name), torch.Tensor):
                started = False
                state[name] = torch.zeros_like(vector)
        if counted:
            steps = int(state.setdefault("step", torch.tensor(0.0)))
    return started, steps


def _memories(state: dict[str, Any], names: Sequence[str]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    found = [state[name] for name in names]
    return (found[0] if found else None), (found[1] if len(found) > 1 else None)


def dense_gradients(network: Any, room: codes.Room, block: int) -> list[torch.Tensor]:
    """Returns a block's share of the gradient of each product's dense weight, from the values and gradients in a room."""
    program, batch = network.unshared, network.unshared.batch
    inputs = torch.from_numpy(room.inputs).view(-1, program.in_places, batch)[block]
    values = torch.from_numpy(room.values[: program.places * batch]).view(program.places, batch)
    gradients = torch.from_numpy(room.gradients[: program.slope_places * batch]).view(program.slope_places, batch)
    found = []
    for layer in network.layers:
        x = (inputs if layer.x.from_input else values)[torch.from_numpy(layer.x.places)]
        dy = gradients[torch.from_numpy(layer.y.places + layer.shift(program))]
        if isinstance(layer.module, nn.Linear):
            x, dy = x.reshape(-1, x.shape[-2], batch), dy.reshape(-1, dy.shape[-2], batch)
            found.append(torch.einsum("pob,pib->oi", dy, x))
            continue
        module: Any = layer.module
        n = len(module.kernel_size)
        _, slope, _ = torch.ops.aten.convolution_backward(
            dy.movedim(-1, 0).contiguous(), _padded(module, x.movedim(-1, 0)).contiguous(), module.weight.detach(), None,
            list(module.stride), [0] * n, list(module.dilation), False, [0] * n, module.groups, [False, True, False],
        )  # fmt: skip
        found.append(slope)
    return found


def _padded(module: Any, x: torch.Tensor) -> torch.Tensor:
    return F.pad(x, list(module._reversed_padding_repeated_twice))
