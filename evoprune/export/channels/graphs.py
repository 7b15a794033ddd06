"""Graphs of networks that show all that happens in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from evoprune.export.channels.flow import AUGMENTED, is_in_place, shares_memory, title


class _Proxy(fx.Proxy):
    """A value of a graph; ``y += x`` changes it, as it changes a tensor, while that of ``torch.fx`` makes another one."""


def _assignment(function: Any) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda value, other: value.tracer.create_proxy("call_function", function, (value, other), {})


for _name, _function in AUGMENTED.items():
    setattr(_Proxy, _name, _assignment(_function))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def graph_of(model: nn.Module) -> fx.Graph:
    """Returns the graph of a network.

    Raises:
        ValueError: The graph would not show all that happens in the network.
        Exception: Any that the network's forward pass raises for a value that is not there.
    """
    for name, module in model.named_modules():
        if (module._forward_hooks or module._forward_pre_hooks) and next(module.children(), None) is not None:
            raise ValueError(f"{name or 'the network'} has hooks, which it does not see")
    graph = _Tracer().trace(model)
    for node in graph.nodes:
        if is_in_place(model, node) and not (_is_sole_reader(model, node) and node.users):
            raise ValueError(f"{title(model, node)} changes a value in place that is read elsewhere, too")
    return graph


def _is_sole_reader(model: nn.Module, node: fx.Node) -> bool:
    """Tells whether no other node sees the memory that a node changes."""
    source = next(iter(node.all_input_nodes), None)
    if source is None or len(source.users) > 1:
        return False
    return not shares_memory(model, source) or _is_sole_reader(model, source)
