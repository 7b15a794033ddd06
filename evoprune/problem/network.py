"""The network of a problem, with its initial weights."""

from __future__ import annotations

import copy
import inspect
import os
import warnings
from collections.abc import Mapping

import torch
from torch import nn

from evoprune import seeds
from evoprune.errors import InputError, UnprunableWarning
from evoprune.problem.arrays import is_labels
from evoprune.problem.data import Data, count_classes
from evoprune.problem.models import NamedModel
from evoprune.problem.options import ProblemOptions
from evoprune.problem.prunable import prunable
from evoprune.problem.servable import require_servable
from evoprune.problem.usercode import package_of_module
from evoprune.problem.weights import initialize
from evoprune.system.memory import require_memory


def copied_module(model: nn.Module) -> nn.Module:
    """Returns a copy of a module of the user's.

    Raises:
        InputError: It cannot be copied, or cannot be pruned faithfully.
    """
    require_servable(model)
    try:
        return copy.deepcopy(model).to("cpu")  # for workers, which may have other GPUs
    except Exception as error:
        raise InputError(
            f"the model ({type(model).__name__}) cannot be copied: {type(error).__name__}: {error}. Expected a module of plain "
            f"parameters and attributes; or give a function that makes it."
        ) from error


def initial_network(model: nn.Module | NamedModel, data: Data, options: ProblemOptions) -> nn.Module:
    """Returns the network at W0, in training mode, on the CPU, so that W0 is the same for every device; not yet scaled.

    Args:
        model: A module, or an entry of the registry.
        data: The split data, which give the shapes of inputs and outputs.
        options: The problem's options, with the initialization resolved.

    Raises:
        InputError: The model's function fails, or its network cannot be pruned faithfully.
    """
    seed = seeds.integer(options.seed if options.weights_seed is None else options.weights_seed, "weights")
    with seeds.seeded(seed, options.device):  # the model function may draw there
        network = copy.deepcopy(model) if isinstance(model, nn.Module) else _build(model, data, options)
    network = network.to("cpu", getattr(torch, options.dtype))
    assert options.initialization is not None
    initialize(network, options.initialization, seed, list(prunable(network, options.exclude, options.include)))
    return network.train()


def _build(model: NamedModel, data: Data, options: ProblemOptions) -> nn.Module:
    x, y = data.train
    outputs = 0
    if model.takes("classes"):
        outputs = count_classes(data) if is_labels(y) and model.loss != "reconstruction" else y[0].numel()
    try:
        if model.is_built_in:
            with torch.device("meta"):
                size = sum(p.numel() for p in model.build(x.shape[1:], outputs, options.widths).parameters())
            require_memory(3 * size * getattr(torch, options.dtype).itemsize, f"a network of {size:,} weights")
        network = model.build(x.shape[1:], outputs, options.widths)
    except InputError:
        raise
    except Exception as error:
        what = f"model {options.model!r}" if model.own is None else f"model function {describe(model.make)}"
        raise InputError(f"the {what} failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"model made {type(network).__name__}; expected a torch.nn.Module.")
    if not model.is_built_in:
        require_servable(network)
    return network


def warn_of_unprunable(shapes: Mapping[str, torch.Size]) -> None:
    """Warns of weights that look like those of a layer but stay dense, if there are any."""
    if not shapes:
        return
    named = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    warnings.warn(
        f"not prunable, and so dense: {named}. Sparsity is of the prunable weights alone; include them by name "
        f"(include=) to prune them, too, or exclude them by name if they are to stay dense.",
        UnprunableWarning,
        stacklevel=3,
    )


def check_device(device: str) -> None:
    """Checks that tensors can lie on a device, and prepares cuBLAS, which reads the environment when it is first used.

    Raises:
        InputError: They cannot, or it is of a kind whose random numbers cannot be repeated here.
    """
    try:
        kind = torch.device(device).type
        if kind not in ("cpu", "cuda"):
            raise RuntimeError(f"devices of the kind {kind} are not seeded")
        if kind == "cuda":  # else products cannot be deterministic; a value of the user's stays
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device!r} cannot be used here: {error}. Expected 'cpu', or 'cuda' with a GPU.") from error


def describe(thing: object) -> str:
    """Returns the name in records of a user's module, function or loss: its package, and its class or function name."""
    kind = thing if inspect.isfunction(thing) or inspect.isclass(thing) else type(thing)
    # a module of the user's has another name when it runs as a script
    return f"{'own' if package_of_module(kind.__module__) is None else kind.__module__}.{kind.__qualname__}"


def global_hooks() -> list[object]:
    """Returns the hooks that every module calls."""
    kinds = ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_pre_hooks", "_global_backward_hooks")
    return [hook for kind in kinds for hook in getattr(torch.nn.modules.module, kind).values()]
