"""Smaller dense networks: neurons and channels that no path needs are removed."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import prune

from evoprune.errors import InputError
from evoprune.export.channels.flow import LAYERS, Flow, odd_layers
from evoprune.export.channels.graphs import graph_of
from evoprune.export.channels.removal import cut, fold, silence
from evoprune.export.fit import fitted, require_module
from evoprune.masks.mask import Mask


def shrink(model: nn.Module, mask: Mask | None = None, example: Tensor | None = None) -> nn.Module:
    """Returns a smaller dense module, for evaluation, whose outputs are those of the sparse one within rounding.

    Removed are neurons and channels that no layer reads, and those that have one value whatever the input is, whose part goes
    into the bias of the layers that read them. A convolution that pads with zeros cannot have it there, for the border differs;
    it keeps one such channel for all of them. Channels that are added, as in residual networks, go from all branches at once.

    Linear layers and convolutions are followed through batch normalisation, activations, pooling, flattening and sums. Around
    everything else the layers keep their width, and a warning names them.

    Args:
        model: The module; it is copied. Its forward pass is followed by ``torch.fx``.
        mask: The weights that are removed; None for those that are zero already.
        example: A batch of inputs, of which only the number of dimensions is used. It is needed where a linear layer that reads
            the input is followed by batch normalisation.

    Returns:
        A copy of the module, with smaller layers, in evaluation mode. Do not train it: batch normalisation would shift values
        that have been folded away.

    Raises:
        InputError: The mask does not fit, or the module is pruned by ``torch.nn.utils.prune``.
    """
    require_module(model)
    if prune.is_pruned(model):
        raise InputError(
            "the model is pruned by torch.nn.utils.prune; expected plain weights: call prune.remove for each, or give the "
            "model as it was before, and the mask."
        )
    removed = {} if mask is None else {name: mask.layers[name] for name in fitted(mask, model)}
    small = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, bits in removed.items():
            small.get_parameter(name).mul_(torch.from_numpy(bits).to(small.get_parameter(name).device))
        for parameter in small.parameters():
            parameter.data = parameter.data.contiguous()
    try:
        graph = graph_of(small)
    except Exception as error:  # noqa: BLE001 - the forward pass of a user's network may raise any
        warnings.warn(f"nothing was removed: torch.fx cannot follow {type(model).__name__}: {error}", stacklevel=2)
        return small
    _shrink(small, graph, None if example is None else example.ndim)
    return small


def _shrink(model: nn.Module, graph: fx.Graph, ndim: int | None) -> None:
    """Removes channels in place: folding and silencing make more of them useless, until nothing changes."""
    is_settled = False
    while not is_settled:
        flow = Flow(model, graph, ndim)
        changes = [fold(model, reader) for group in flow.groups for reader in group.readers]
        changes += [silence(model, group) for group in flow.groups]
        is_settled = not any(changes)
    for group in flow.groups:
        cut(model, group)
    _warn(model, graph, flow)


def _warn(model: nn.Module, graph: fx.Graph, flow: Flow) -> None:
    """Names the layers that keep their width because the channels cannot be followed."""
    said: dict[str, str] = {}
    for group in flow.groups:
        reasons = [reason for reason in dict.fromkeys(group.pinned) if reason]
        said |= dict.fromkeys(group.writers, f"read by {', '.join(reasons)}") if reasons else {}
    odd = odd_layers(model, graph)
    said |= {name: odd[name] for name, module in model.named_modules() if name in odd and isinstance(module, LAYERS)}
    if said:
        named = "; ".join(f"{name} ({reason})" for name, reason in said.items())
        warnings.warn(f"these layers keep their width: {named}.", stacklevel=4)
