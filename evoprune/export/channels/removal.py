"""The removal of channels, in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evoprune.export.channels.groups import Group, Reader


def columns_of(layer: Any, size: int) -> Tensor:
    """Returns a view [outputs, channels, ...] of the weights with which a layer reads channels."""
    weight: Tensor = layer.weight.data
    return weight.view(len(weight), size, -1)


def fold(model: nn.Module, reader: Reader) -> bool:
    """Lets a layer do without the channels that always have one value, as far as it can.

    Their part of the output goes into the bias. A convolution that pads with zeros sees another value at the border; there, all
    such channels become one, the part of the others being added to it in proportion.

    Returns:
        Whether anything has changed.
    """
    layer: Any = model.get_submodule(reader.layer)
    constant = reader.constant
    columns = columns_of(layer, len(constant))
    is_read = columns.ne(0).any(2).any(0)
    columns[:, is_read & (constant == 0)] = 0
    fixed = is_read & ~constant.isnan() & (constant != 0)
    values, changes = constant.double(), bool((is_read & (constant == 0)).any())
    if not fixed.any() or (pads_zeros(layer) and fixed.sum() < 2):
        return changes
    if pads_zeros(layer):
        carrier = int(torch.where(fixed, values.abs(), -1.0).argmax())
        fixed[carrier] = False
        share = torch.einsum("ocp,c->op", columns[:, fixed].double(), values[fixed] / values[carrier])
        columns[:, carrier] = (columns[:, carrier].double() + share).to(columns)
    else:
        part = torch.einsum("ocp,c->o", columns[:, fixed].double(), values[fixed])
        bias = part if layer.bias is None else layer.bias.data.double() + part
        layer.bias = nn.Parameter(bias.to(columns), requires_grad=layer.weight.requires_grad)
    columns[:, fixed] = 0
    return True


def pads_zeros(layer: Any) -> bool:
    """Tells whether a layer is a convolution that pads its input with zeros."""
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros":
        return False
    return any(layer._reversed_padding_repeated_twice)


def read_channels(model: nn.Module, group: Group) -> Tensor:
    """Returns which channels of a group stay, [channels]: those that a layer reads, and all if they are pinned."""
    if group.pinned:
        return torch.ones(group.size, dtype=torch.bool)
    found = torch.zeros(group.size, dtype=torch.bool)
    for reader in group.readers:
        found |= columns_of(model.get_submodule(reader.layer), group.size).ne(0).any(2).any(0).cpu()
    return found


def silence(model: nn.Module, group: Group) -> bool:
    """Sets the weights to zero by which layers compute channels that nobody reads, and returns whether any has changed."""
    unread = ~read_channels(model, group)
    changes = False
    for name in group.writers:
        layer: Any = model.get_submodule(name)
        for values in (layer.weight.data, *([] if layer.bias is None else [layer.bias.data])):
            changes |= bool(values[unread].any())
            values[unread] = 0
    return changes


def cut(model: nn.Module, group: Group) -> None:
    """Removes the channels of a group that nobody reads; one stays in any case, since layers without channels fail."""
    stays = read_channels(model, group)
    if stays.all():
        return
    if not stays.any():
        stays[0] = True
    for name in group.writers:
        layer: Any = model.get_submodule(name)
        _replace(layer, "weight", layer.weight.data[stays])
        if layer.bias is not None:
            _replace(layer, "bias", layer.bias.data[stays])
        _count(layer, ("out_features", "out_channels"), int(stays.sum()))
    for reader in group.readers:
        layer = model.get_submodule(reader.layer)
        weight = layer.weight.data
        left = weight.view(len(weight), group.size, -1, *weight.shape[2:])[:, stays].flatten(1, 2)
        _replace(layer, "weight", left)
        _count(layer, ("in_features", "in_channels"), left.shape[1])
    for name in group.norms:
        norm: Any = model.get_submodule(name)
        entries = stays.repeat_interleave(norm.num_features // group.size)
        for own in ("weight", "bias"):
            if getattr(norm, own) is not None:
                _replace(norm, own, getattr(norm, own).data[entries])
        norm.running_mean, norm.running_var = norm.running_mean[entries], norm.running_var[entries]
        norm.num_features = int(entries.sum())


def _replace(layer: Any, name: str, values: Tensor) -> None:
    setattr(layer, name, nn.Parameter(values.clone(), requires_grad=getattr(layer, name).requires_grad))


def _count(layer: Any, names: tuple[str, ...], count: int) -> None:
    for name in names:
        if hasattr(layer, name):
            setattr(layer, name, count)
