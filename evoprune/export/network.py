"""A whole network on its surviving weights, for inference and training."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from evoprune.engines.sparse.plan import Plan, run
from evoprune.engines.sparse.support import DTYPES
from evoprune.errors import InputError
from evoprune.export.channels.graphs import graph_of
from evoprune.export.layers import SparseConv2d, SparseLayer, SparseLinear, is_followed, version_of

# Modules that act differently in training.
_MODAL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
# Plans that a network keeps, for inputs of different shapes and settings of its modules.
_MOST_PLANS = 32
# Attributes of modules that a plan does not depend on, or that are a part of its key: those of all, and of `_MODAL`.
_OPEN = frozenset({"training", "_plans", "_seen"})
_OPEN_MODAL = _OPEN | {"p", "eps", "momentum"}
# Errors of torch.fx where it runs a network on tensors without numbers.
_UNTRACEABLE = (InputError, RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError, ArithmeticError)


class SparseNetwork(nn.Module):
    """A network whose masked linear layers and convolutions hold their surviving weights alone; see :func:`sparse`.

    Where the kernels of the engine ``sparse`` know all parts of the network, a forward pass is one call of them, and so is a
    backward pass; else the network's code runs, and each sparse layer calls the kernels for itself.

    Args:
        model: The dense network, which is copied.
        masks: True where a weight survives, by the name of the parameter. Weights that are not named stay dense.

    Attributes:
        network: The copy with sparse layers. Its parameters and buffers have the names of the dense network's, but for
            ``values`` and ``positions`` in the place of a masked ``weight``.

    Raises:
        InputError: A mask that does not fit.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.network, self._masked = _sparsified(model, masks)
        for i, name in enumerate(self._masked):
            self.register_buffer(f"mask_{i}", masks[name])
        self.training = model.training
        self._whole = _Whole(self.network, bool(self._masked))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the dense network returns."""
        fused = self._whole.find(args[0], self.training) if len(args) == 1 and not kwargs else None
        if fused is not None:
            return run(fused.plan, args[0], fused.parameters(), fused.norms, self.training)
        if not self._masked:
            return self.network(*args, **kwargs)
        weights = {name: self.network.get_parameter(name) * mask for name, mask in self._left_masks().items()}
        return functional_call(self.network, weights, args, kwargs)

    def to_dense(self) -> nn.Module:
        """Returns the dense network with the same outputs; removed weights are zero."""
        network = copy.deepcopy(self.network)
        layers = [module for module in network.modules() if isinstance(module, SparseLayer)]
        dense: dict[int, Any] = {id(layer): layer.to_dense() for layer in layers}
        made = exchanged(network, dense)
        weights: dict[int, nn.Parameter] = {}
        for layer in layers:  # tied parameters stay tied
            mine = dense[id(layer)]
            mine.weight = weights.setdefault(id(layer.values), mine.weight)
            mine.bias = layer.bias
        with torch.no_grad():
            for name, mask in self._left_masks().items():
                made.get_parameter(name).mul_(mask)
        return made.train(self.training)

    def reason(self, x: Tensor) -> str:
        """Returns why a forward pass of some inputs is not one call of the kernels; empty if it is."""
        return "" if self._whole.find(x, self.training) is not None else self._whole.reason

    def extra_repr(self) -> str:
        """Returns the number of survivors."""
        layers = [module for module in self.network.modules() if isinstance(module, SparseLayer)]
        kept, n = sum(len(layer.values) for layer in layers), sum(layer.mask.numel() for layer in layers)
        return f"survivors={kept} of {n} ({kept / max(n, 1):.1%})"

    def _left_masks(self) -> dict[str, Tensor]:
        """Returns the masks of weights of other layers, which stay dense."""
        return {name: self.get_buffer(f"mask_{i}") for i, name in enumerate(self._masked)}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_whole": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._whole = _Whole(self.network, bool(self._masked))


class _Whole:
    """Finds out whether a network can be one call of the kernels, and remembers how.

    Args:
        network: The network with sparse layers.
        is_masked: Masks of other layers are beside it.

    Attributes:
        reason: Why the last inputs could not be served; empty if they could.
    """

    def __init__(self, network: nn.Module, is_masked: bool) -> None:
        self._network, self._is_masked = network, is_masked
        self._plans: dict[Any, _Fused | str] = {}
        self._look = _Look(network)
        self.reason = ""

    def find(self, x: Any, training: bool) -> _Fused | None:
        """Returns the network as one call for some inputs, made when they are first seen; None where layers run one by one."""
        self.reason = self._refusal(x)
        if self.reason:
            return None
        is_fused = any(isinstance(fused, _Fused) for fused in self._plans.values())
        if not self._look.is_current() or (is_fused and not self._look.has_same_code()):
            self._plans, self._look = {}, _Look(self._network)
        wants_input = x.requires_grad and torch.is_grad_enabled()
        key = (x.shape[1:], x.dtype, wants_input, training, self._look.settings())
        fused = self._plans.get(key)
        if fused is None:
            try:
                fused = _Fused(self._network, tuple(x.shape[1:]), wants_input)
            except _UNTRACEABLE as error:
                fused = str(error)
            if len(self._plans) >= _MOST_PLANS:
                self._plans = {}
            self._plans[key] = fused
        self.reason = fused if isinstance(fused, str) else self._look.refusal(training) or fused.refusal(x, training)
        return None if self.reason or isinstance(fused, str) else fused

    def _refusal(self, x: Any) -> str:
        if self._is_masked:
            return "a masked weight belongs to no plain linear layer or convolution of two dimensions"
        if type(x) is not Tensor or x.ndim < 2 or x.numel() == 0:
            return "the inputs are no batch of examples"
        if x.dtype not in DTYPES or not x.is_cpu:
            return f"the kernels serve float32 and float64 on the CPU; the inputs are {x.dtype} on {x.device}"
        return "torch records the operations of the layers" if is_followed() else ""


class _Look:
    """The parts of a network, to notice when they are exchanged."""

    def __init__(self, network: nn.Module) -> None:
        self.modules = list(network.modules())
        self.modal: list[Any] = [module for module in self.modules if isinstance(module, _MODAL)]
        self.children = [(module._modules, tuple(module._modules.values())) for module in self.modules if module._modules]
        self.hooks = [
            each for m in self.modules
            for each in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
        ]  # fmt: skip
        buffers: list[Any] = [module._buffers for module in self.modules if isinstance(module, SparseLayer)]
        self.positions: list[Any] = [(each, each["positions"], version_of(each["positions"])) for each in buffers]
        tables: list[Any] = [table for m in self.modules for table in (m._parameters, m._buffers)]
        self.absent = [(table, name) for table in tables for name, value in table.items() if value is None]
        self.attributes = [vars(m) for m in self.modules]
        self.before = [list(each.values()) for each in self.attributes]
        self.telling = [_telling(m) for m in self.modules]

    def is_current(self) -> bool:
        """Tells whether neither modules nor positions have been exchanged."""
        return all(tuple(now.values()) == before for now, before in self.children) and all(
            now["positions"] is before and version_of(before) == version for now, before, version in self.positions
        )

    def has_same_code(self) -> bool:
        """Tells whether the forward pass is still the one that was translated: nobody has set an attribute of a module."""
        if any(table.get(name) is not None for table, name in self.absent):
            return False
        if all(map(_are_same, self.attributes, self.before)):
            return True
        if [_telling(m) for m in self.modules] != self.telling:
            return False
        self.before = [list(each.values()) for each in self.attributes]
        return True

    def settings(self) -> tuple[Any, ...]:
        """Returns the numbers that a program takes from modules."""
        return tuple((getattr(m, "p", 0), getattr(m, "eps", 0), getattr(m, "momentum", 0)) for m in self.modal)

    def refusal(self, training: bool) -> str:
        """Returns why the layers have to run one by one; empty if they need not."""
        if any(m.training != training for m in self.modal):
            return "some modules are in training mode, and others are not"
        if any(self.hooks):
            return "a module has hooks"
        return ""


def _are_same(attributes: Mapping[str, Any], before: Sequence[Any]) -> bool:
    return len(attributes) == len(before) and all(map(operator.is_, attributes.values(), before))


def _telling(module: nn.Module) -> dict[str, _Same]:
    """Returns a module's attributes, but for those that do not matter."""
    ignored = _OPEN_MODAL if isinstance(module, _MODAL) else _OPEN
    return {name: _Same(value) for name, value in vars(module).items() if name not in ignored}


class _Same:
    """A value that equals itself alone; tensors and arrays have another equality."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


class _Fused:
    """A network as one call of the kernels."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...], wants_input: bool) -> None:
        indices: dict[str, NDArray[np.int64]] = {}
        for name, module in network.named_modules():
            if isinstance(module, SparseLayer):
                indices[f"{name}.weight" if name else "weight"] = module.survivors()
        skeleton = skeleton_of(network)
        self.takes_one, self.normalises = _require_pure(skeleton)
        self.plan = Plan(skeleton, shape, indices, wants_input)
        self.norms: list[Any] = [network.get_submodule(name) for name in self.plan.norms]
        self.holders: list[tuple[dict[str, Any], str]] = []
        for name in self.plan.parameters:
            path, _, leaf = name.rpartition(".")
            holder = network.get_submodule(path)
            self.holders.append((holder._parameters, "values" if name in indices else leaf))

    def parameters(self) -> list[Any]:
        """Returns the parameters in the order of the plan's names; None for one that has been taken away."""
        return [holder.get(name) for holder, name in self.holders]

    def refusal(self, x: Tensor, training: bool) -> str:
        """Returns why the kernels do not serve inputs, parameters and buffers as they now are; empty if they do."""
        if len(x) == 1 and (not self.takes_one or (training and self.normalises)):
            return "a batch of one example may have another shape, or no variance"  # torch decides, or says so
        statistics = [each for norm in self.norms for each in (norm.running_mean, norm.running_var)]
        given = [x, *self.parameters(), *statistics]
        if NoneType not in map(type, given) and self.plan.serves(given):
            return ""
        return f"the inputs, of {x.dtype}, and all parameters have to be there, of one type, and on the CPU"


def _require_pure(network: nn.Module) -> tuple[bool, bool]:
    """Refuses networks in which something happens that the kernels would not do.

    Returns:
        Whether one example has the shape that each of several has; and whether batches are normalised.

    Raises:
        ValueError: A value is changed in place and read elsewhere, or a batch normalisation is called twice.
        Exception: Any that the forward pass raises for a value that is not there.
    """
    root = network if next(network.children(), None) else nn.Sequential(network)
    graph = graph_of(root)
    called = [root.get_submodule(str(n.target)) for n in graph.nodes if n.op == "call_module"]
    norms = [module for module in called if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if len({id(norm) for norm in norms}) < len(norms):
        raise ValueError("a batch normalisation is called twice in a forward pass, and its statistics move twice")
    return not any(n.target in ("squeeze", torch.squeeze) for n in graph.nodes), bool(norms)


def skeleton_of(network: nn.Module) -> nn.Module:
    """Returns the dense network of one with sparse layers, without numbers: its tensors are on the device ``meta``."""
    tensors = [*network.parameters(), *network.buffers()]
    memo: dict[int, Any] = {}
    for tensor in tensors:
        bare = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(bare, tensor.is_floating_point()) if isinstance(tensor, nn.Parameter) else bare
    return _replaced(copy.deepcopy(network, memo), lambda layer: layer.skeleton())


def _replaced(network: nn.Module, make: Callable[[SparseLayer], nn.Module]) -> nn.Module:
    """Returns the network with other modules in the places of its sparse layers."""
    return exchanged(network, {id(module): make(module) for module in network.modules() if isinstance(module, SparseLayer)})


def exchanged(network: nn.Module, new: Mapping[int, nn.Module]) -> nn.Module:
    """Returns the network with other modules in the places of some, which are named by their identity."""
    for module in list(network.modules()):
        for name, child in module._modules.items():
            if child is not None and id(child) in new:
                module._modules[name] = new[id(child)]
    return new.get(id(network), network)


@dataclass
class _Weight:
    """A masked weight with the modules that own it."""

    name: str
    mask: Tensor
    owners: list[tuple[nn.Module, str]] = field(default_factory=list)

    def can_be_sparse(self) -> bool:
        """Tells whether all its owners can be sparse layers."""
        return all(
            leaf == "weight" and (type(owner) is nn.Linear or (type(owner) is nn.Conv2d and owner.padding_mode == "zeros"))
            for owner, leaf in self.owners
        )


def _sparsified(model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[nn.Module, tuple[str, ...]]:
    """Returns a copy with sparse layers, and the names of the masked weights that stay dense."""
    network = copy.deepcopy(model)
    parameters = dict(network.named_parameters(remove_duplicate=False))
    weights: dict[int, _Weight] = {}
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            shape = tuple(parameters[name].shape) if name in parameters else "none"
            raise InputError(
                f"the mask has {name} of the shape {tuple(mask.shape)}, and the model {shape}; expected a mask of the model's "
                f"parameters, which are {', '.join(parameters)}."
            )
        other = weights.setdefault(id(parameters[name]), _Weight(name, mask))
        if not torch.equal(other.mask, mask):
            raise InputError(
                f"{other.name} and {name} are one parameter of the model, tied; expected only {other.name} in the mask."
            )
    for module in network.modules():
        for leaf, parameter in module._parameters.items():
            if id(parameter) in weights:
                weights[id(parameter)].owners.append((module, leaf))
    new: dict[int, nn.Module] = {}
    for weight in weights.values():
        first: SparseLayer | None = None
        for owner, _ in weight.owners if weight.can_be_sparse() else ():
            kind: Any = SparseLinear if type(owner) is nn.Linear else SparseConv2d
            layer: SparseLayer = kind.from_dense(owner, weight.mask)
            first = first or layer
            layer.values = first.values  # layers that share a weight share its survivors
            layer.bias = owner.bias  # type: ignore[assignment]  # the copy's, which other layers may share
            new[id(owner)] = layer
    left = tuple(weight.name for weight in weights.values() if not weight.can_be_sparse())
    return exchanged(network, new), left
