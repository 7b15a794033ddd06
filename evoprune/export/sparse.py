"""``ep.sparse``: the network of a mask or of a result on its surviving weights alone."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from evoprune.errors import InputError
from evoprune.export.network import SparseNetwork
from evoprune.masks.mask import Mask
from evoprune.runs.result import Result

# Measurements of each network, interleaved, of which the median counts: of slow networks as many as fit into the seconds.
REPEATS, LEAST, SECONDS = 51, 5, 3.0


def sparse(model: nn.Module | Result, mask: Mask | Mapping[str, Any] | None = None, example: Tensor | None = None) -> nn.Module:
    """Returns a network that holds its surviving weights alone, for inference and training on the CPU.

    Linear layers and convolutions of two dimensions become :class:`SparseLinear` and :class:`SparseConv2d`. Where the kernels
    of the engine ``sparse`` know all parts of the network, a forward pass is one call of them. Outputs equal those of the dense
    network within rounding, in training mode and in evaluation mode. Optimisers of torch train it: removed weights do not
    exist, and so cannot come back. Masked weights of other layers stay dense, and are multiplied by their mask.

    Args:
        model: A network, which is copied, or the result of a method.
        mask: The mask, or booleans by the name of the parameter. None: the result's; of a network, the weights of linear layers
            and convolutions that are not zero.
        example: Inputs [n, ...] as they will come, n above all. The network's speed is then measured on them, in evaluation
            mode, with as many threads as torch has, and said on standard error; and the dense network, whose removed weights
            are zero, is returned where it is faster.

    Raises:
        InputError: The mask does not fit the network; or there is none, and no weight is zero.

    Example:
        >>> network = ep.sparse(result)
        >>> predictions = network(inputs).argmax(1)
    """
    if isinstance(model, Result):
        if mask is not None:
            raise InputError("mask is given beside a result, which has one; expected one of the two.")
        return sparse(model.model, model.mask, example)
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}; expected a torch.nn.Module, or the result of a method.")
    if not isinstance(mask, (Mask, Mapping, NoneType)):
        raise InputError(f"mask is {type(mask).__name__}; expected ep.Mask, such as ep.Mask.load('runs/mine/mask.npz').")
    if not isinstance(example, (Tensor, NoneType)):
        raise InputError(f"example is {type(example).__name__}; expected a tensor, a batch of inputs.")
    if prune.is_pruned(model):
        raise InputError(
            "the model is pruned by torch.nn.utils.prune; expected plain weights: call prune.remove for each, or give the "
            "model as it was before, and the mask."
        )
    made = SparseNetwork(model, _survivors(model) if mask is None else _as_tensors(mask))
    if example is None:
        return made
    dense = made.to_dense()
    seconds = measure_speed({"dense": dense, "sparse": made}, example)
    ratio = seconds["dense"] / seconds["sparse"]
    text = f"{seconds['sparse'] * 1e3:.3g} ms on {len(example)} examples, and the dense one {seconds['dense'] * 1e3:.3g} ms"
    if ratio < 1:
        _say(f"the sparse network takes {text}; returning the dense one, whose removed weights are zero")
        return dense
    _say(f"the sparse network takes {text}: it is {ratio:.1f} times as fast")
    return made


def measure_speed(networks: Mapping[str, nn.Module], example: Tensor) -> dict[str, float]:
    """Returns the seconds of a forward pass in evaluation mode of each network: medians of interleaved repeats.

    Args:
        networks: The networks by name.
        example: Inputs.
    """
    modes = {name: network.training for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.no_grad():
        for network in networks.values():
            network.eval()(example)
        start = time.perf_counter()
        for i in range(REPEATS):
            if i >= LEAST and time.perf_counter() - start > SECONDS:
                break
            for name, network in networks.items():
                before = time.perf_counter()
                network(example)
                times[name].append(time.perf_counter() - before)
    for name, network in networks.items():
        network.train(modes[name])
    return {name: statistics.median(found) for name, found in times.items()}


def _say(text: str) -> None:
    print(f"ep.sparse: {text}", file=sys.stderr, flush=True)


def _survivors(model: nn.Module) -> dict[str, Tensor]:
    """Returns masks of the linear layers and convolutions that have weights of zero."""
    found = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if isinstance(module, (nn.Linear, nn.Conv2d)) and weight is not None and bool((weight == 0).any()):
            found[f"{name}.weight" if name else "weight"] = (weight != 0).detach()
    if not found:
        raise InputError(
            "no linear layer or convolution of the model has weights of zero; expected such a model, or a mask. After "
            "torch.nn.utils.prune, call prune.remove first."
        )
    return found


def _as_tensors(mask: Mask | Mapping[str, Any]) -> dict[str, Tensor]:
    layers = mask.layers if isinstance(mask, Mask) else Mask.from_layers(mask).layers
    return {name: torch.from_numpy(layer.copy()) for name, layer in layers.items()}
