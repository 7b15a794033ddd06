"""The way of channels through a network, as ``torch.fx`` sees it."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from evoprune.engines.sparse import modules as known
from evoprune.export.channels.groups import Group, Reader, Value

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_UNCHANGED = ("contiguous", "clone", "detach")
_BY_NUMBER = (*known.ADDITIONS, operator.sub, operator.mul, operator.truediv)
# Each operator of augmented assignment, by the name of the method that a value has for it.
AUGMENTED: dict[str, Any] = {
    f"__{function.__name__}__": function
    for function in (
        operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow,
        operator.imatmul, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift,
    )
}  # fmt: skip


class Flow:
    """Follows channels from layer to layer, and finds those that always have one value. The network is in evaluation mode.

    Args:
        model: The network.
        graph: Its graph.
        ndim: Number of dimensions of the inputs, that of the batch among them; None if it is not known.

    Attributes:
        groups: The groups of channels.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, ndim: int | None) -> None:
        self.model, self.ndim = model, ndim
        self.groups: list[Group] = []
        self._odd = odd_layers(model, graph)
        self._values: dict[fx.Node, Value] = {}
        for node in graph.nodes:
            value = self._follow(node)
            self._values[node] = self._stop(node) if value is None else value
        self.groups = [group for group in self.groups if group.merged is None]

    def _follow(self, node: fx.Node) -> Value | None:
        """Returns the value of a node; None if the channels cannot be followed through it."""
        if node.op == "placeholder":
            return Value(ndim=self.ndim)
        if node.op in ("get_attr", "output"):
            return Value() if node.op == "get_attr" else None
        if is_batch_size(node):
            return Value()
        given = [self._values[each] for each in node.all_input_nodes]
        if not given:
            return None
        module = module_of(self.model, node)
        if module is not None:
            return None if str(node.target) in self._odd or len(given) > 1 else self._through(node, module, given[0])
        return self._through_function(node, given)

    def _stop(self, node: fx.Node) -> Value:
        """Pins the channels that a node uses, since they cannot be followed any further."""
        for each in node.all_input_nodes:
            group = self._values[each].group
            if group is not None:
                group.whole.pinned.append(title(self.model, node))
        module = module_of(self.model, node)
        if isinstance(module, nn.Flatten) and flattens_all(module):
            return Value(ndim=2)
        return Value()

    def _through(self, node: fx.Node, module: nn.Module, x: Value) -> Value | None:
        if isinstance(module, LAYERS):
            return self._layer(str(node.target), module, x)
        if isinstance(module, NORMS):
            return self._norm(str(node.target), module, x)
        if isinstance(module, _POOLS):
            return pooled(module, x)
        if isinstance(module, nn.Flatten):
            return flattened(x) if flattens_all(module) else None
        if isinstance(module, (nn.Identity, *known.NOISES)):
            return x
        if type(module) in known.ACTIVATIONS:
            return changed(x, module)
        return None

    def _through_function(self, node: fx.Node, given: list[Value]) -> Value | None:
        x = given[0]
        if node.target in known.ADDITIONS and len(node.args) == 2 and not node.kwargs and len(given) == 2:
            return added(*given)
        others = [*node.args[1:], *node.kwargs.values()]
        if (
            node.target in _BY_NUMBER
            and len(others) == 1
            and isinstance(others[0], (int, float))
            and node.args[0] is not others[0]
        ):
            function: Any = node.target if callable(node.target) else getattr(torch.Tensor, str(node.target))
            return changed(x, lambda constant: function(constant, others[0]))
        if node.target in _UNCHANGED or is_idle_dropout(node):
            return x
        if node.target in known.MEANS:
            return averaged(x, node)
        if node.target in ("view", "reshape", torch.reshape) and len(node.args) == 3:
            size, rest = node.args[1:]
            return flattened(x) if isinstance(size, fx.Node) and is_batch_size(size) and rest == -1 else None
        return None

    def _layer(self, name: str, layer: Any, x: Value) -> Value | None:
        """A layer reads the channels before it, and begins with new ones."""
        is_linear = isinstance(layer, nn.Linear)
        ndim = x.ndim if is_linear else layer.weight.ndim
        fits = x.group is None or (x.is_last if is_linear else x.is_maps and x.ndim == ndim)
        if x.group is not None and fits:
            size = x.group.whole.size
            fits = layer.weight.shape[1] % size == 0 and (x.is_flat or layer.weight.shape[1] == size)
        if not fits or getattr(layer, "groups", 1) != 1:
            return None
        if x.group is not None:
            x.group.whole.readers.append(Reader(name, x.constant))
        weight = layer.weight.detach()
        constant = torch.zeros(len(weight)).to(weight) if layer.bias is None else layer.bias.detach().clone()
        constant[weight.flatten(1).any(1)] = torch.nan
        group = Group(len(weight), writers=[name])
        self.groups.append(group)
        return Value(group, ndim, is_last=is_linear, constant=constant)

    def _norm(self, name: str, norm: Any, x: Value) -> Value | None:
        if x.group is None:
            return x
        known_ndims = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
        fits = any(isinstance(norm, kind) and x.ndim in ndims for kind, ndims in known_ndims.items())
        if not fits or (x.is_last and x.ndim != 2) or norm.running_mean is None or norm.training:
            return None
        size = x.group.whole.size
        if norm.num_features % size or (norm.num_features != size and not x.is_flat):
            return None
        x.group.whole.norms.append(name)
        if norm.num_features != size:
            return Value(x.group, x.ndim, x.is_last, x.is_flat, torch.full_like(x.constant, torch.nan))
        weight, bias = norm.weight, norm.bias
        arguments = (norm.running_mean, norm.running_var, weight, bias, False, 0.0, norm.eps)
        return changed(x, lambda constant: F.batch_norm(constant[None], *arguments)[0])


def changed(x: Value, change: Callable[[Tensor], Tensor]) -> Value:
    """Returns the value that a function of its elements makes of another."""
    if x.group is None:
        return x
    varies = x.constant.isnan()
    with torch.no_grad():
        constant = change(x.constant.clone()).masked_fill(varies, torch.nan)
    return Value(x.group, x.ndim, x.is_last, x.is_flat, constant)


def added(x: Value, y: Value) -> Value | None:
    """Returns the sum of two values, whose channels become one group."""
    if x.group is None or y.group is None or x.group.whole.size != y.group.whole.size:
        return None
    if (x.is_last, x.is_flat) != (y.is_last, y.is_flat) or (x.ndim != y.ndim and not x.is_last):
        return None
    group = x.group.merge(y.group)
    ndim = None if x.ndim is None or y.ndim is None else max(x.ndim, y.ndim)
    return Value(group, ndim, x.is_last, x.is_flat, x.constant + y.constant)


def pooled(pool: Any, x: Value) -> Value | None:
    """Returns a value after pooling, which keeps constants but where zeros are averaged with them."""
    if x.group is None:
        return x
    if not x.is_maps or x.ndim != int(type(pool).__name__[-2]) + 2 or getattr(pool, "return_indices", False):
        return None
    constant = x.constant.clone()
    padding = getattr(pool, "padding", 0)
    is_padded = any(padding) if isinstance(padding, tuple) else padding > 0
    if (is_padded and getattr(pool, "count_include_pad", False)) or getattr(pool, "divisor_override", None):
        constant[constant != 0] = torch.nan
    return Value(x.group, x.ndim, x.is_last, x.is_flat, constant)


def flattened(x: Value) -> Value | None:
    """Returns a value with all but the batch in one dimension."""
    if x.group is None:
        return Value(ndim=2)
    if x.is_last:
        return x if x.ndim == 2 else None  # else positions come before channels
    return Value(x.group, 2, True, True, x.constant)


def averaged(x: Value, node: fx.Node) -> Value | None:
    """Returns the mean over all positions."""
    given: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
    dims = given if isinstance(given, (tuple, list)) else (given,)
    if x.group is None or not x.is_maps or x.ndim is None or not all(isinstance(dim, int) for dim in dims):
        return None
    if sorted(dim % x.ndim for dim in dims) != list(range(2, x.ndim)) or set(node.kwargs) - {"dim", "keepdim"}:
        return None
    if node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False):
        return x
    return Value(x.group, 2, True, False, x.constant)


def module_of(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """Returns the module that a node calls, or one that does the same as its function; None for other nodes."""
    if node.op == "call_module":
        return model.get_submodule(str(node.target))
    if node.target in (torch.flatten, "flatten") and not node.kwargs and all(isinstance(a, int) for a in node.args[1:]):
        dims: Any = node.args[1:] or (0,)  # the module's default is another
        return nn.Flatten(*dims)
    kind = known.FUNCTIONS_AS_MODULES.get(node.target)
    if kind is None or node.op not in ("call_function", "call_method"):
        return None
    named: Mapping[str, Any] = {name: value for name, value in node.kwargs.items() if name not in ("inplace", "input")}
    if kind.__name__[-1] == "d" and any(isinstance(a, bool) for a in node.args[1:]):
        return None  # functions of pooling have another order than the modules
    try:
        made: nn.Module = kind(*(a for a in node.args[1:] if not isinstance(a, bool)), **named)
    except TypeError:
        return None
    return made


def is_idle_dropout(node: fx.Node) -> bool:
    """Tells whether a node is a function of dropout that is off."""
    is_off = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True) is False
    return is_off and node.target in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


def flattens_all(module: nn.Flatten) -> bool:
    """Tells whether only the batch is left as it is."""
    return module.start_dim == 1 and module.end_dim == -1


def is_batch_size(node: fx.Node) -> bool:
    """Tells whether a node is the number of examples, or a shape that is read for that alone."""
    if node.target == "size" and len(node.args) > 1:
        return bool(node.args[1] == 0)
    if node.target == "size" or (node.target is getattr and node.args[1] == "shape"):
        return all(is_batch_size(user) for user in node.users)
    source = node.args[0] if node.target is operator.getitem else None
    is_shape = isinstance(source, fx.Node) and (source.target == "size" or source.target is getattr)
    return is_shape and bool(node.args[1] == 0)


def is_in_place(model: nn.Module, node: fx.Node) -> bool:
    """Tells whether a node changes its input."""
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    arguments = [*node.args[1:], node.kwargs.get("inplace")]
    is_activation = node.target in known.FUNCTIONS_AS_MODULES and any(argument is True for argument in arguments)
    called = str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", ""))
    is_named_so = node.op != "placeholder" and called.endswith("_") and not called.endswith("__")  # as torch names them
    is_told = node.kwargs.get("inplace") is True or node.kwargs.get("out") is not None
    return is_activation or is_named_so or is_told or node.target in AUGMENTED.values()


def shares_memory(model: nn.Module, node: fx.Node) -> bool:
    """Tells whether a node's output may lie where its input does."""
    if is_in_place(model, node) or node.target in (*_UNCHANGED, torch.reshape, "view", "reshape") or is_idle_dropout(node):
        return True
    return isinstance(module_of(model, node), (nn.Identity, nn.Flatten, *known.NOISES))


def odd_layers(model: nn.Module, graph: fx.Graph) -> dict[str, str]:
    """Returns the modules that are not used just once, as they are, each with the reason."""
    calls = Counter(model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module")
    places = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    found: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        own = dict(module.named_parameters(recurse=False))
        has_state = own or next(module.buffers(recurse=False), None) is not None  # an activation may be used at many places
        if calls[module] > 1 and has_state:
            found[name] = "is used several times"
        elif any(places[id(parameter)] > 1 for parameter in own.values()):
            found[name] = "shares a weight with another layer"
        elif calls[module] and name in read:
            found[name] = "has a weight that is read elsewhere, too"
        elif calls[module] and (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)):
            found[name] = "has hooks"
        elif isinstance(module, LAYERS) and "weight" not in own:
            found[name] = "has no plain weight"
    return found


def title(model: nn.Module, node: fx.Node) -> str:
    """Returns the name of a node for a message; empty for the network's output."""
    if node.op == "output":
        return ""
    if node.op == "call_module":
        return f"{node.target} ({type(model.get_submodule(str(node.target))).__name__})"
    return f"{node.target if isinstance(node.target, str) else getattr(node.target, '__name__', node.target)} in forward"
