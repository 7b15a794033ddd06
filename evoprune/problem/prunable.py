"""The prunable weights of a network, and how often an example uses each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problem.fused import without_fast_path
from evoprune.problem.kinds import KINDS, require_weights
from evoprune.problem.kinds import PRUNABLE_MODULES as PRUNABLE_MODULES

# A weight of more than one dimension in them scales, and mixes nothing.
_NORMS = (nn.LayerNorm, nn.RMSNorm)


def prunable(network: nn.Module, exclude: Sequence[str] = (), include: Sequence[str] = ()) -> dict[str, torch.Size]:
    """Returns name and shape of the prunable weights, in ``named_parameters`` order.

    Prunable are the weights of the kinds in :data:`evoprune.problem.kinds.KINDS` (linear and convolutional layers, the inputs
    of attention, recurrent layers) and those that are included by name. Never biases, never normalisation.

    Args:
        network: The network.
        exclude: Names of parameters (``fc3.weight``) or of modules (``fc3``: all weights in it), which stay dense.
        include: Names of parameters, or of modules (all matrix-like weights in it), that are prunable, too, such as embeddings.

    Raises:
        InputError: An excluded or included name matches nothing that can be, nothing is left to prune, or a kind that a user
            has registered names a weight that its modules do not have.
    """
    require_weights(network)
    candidates = _candidates(network, include)
    others = _matrices(network, include)
    if not candidates:
        raise InputError(
            f"nothing to prune: the network has no linear or convolutional layer with a plain weight, and no other prunable "
            f"kind ({', '.join(KINDS)}). Weights of other kinds: {', '.join(others) or 'none'}; include them by name."
        )
    known = [*candidates, *others]
    for given in exclude:
        if not any(_is_in(name, given) for name in known):
            raise InputError(
                f"cannot exclude {given!r}: no prunable weights of that name; expected one of {', '.join(known)}, or a module "
                f"that holds some."
            )
    left = {name: shape for name, shape in candidates.items() if not any(_is_in(name, given) for given in exclude)}
    if not left:
        raise InputError(f"nothing to prune: all of {', '.join(candidates)} are excluded.")
    return left


def unprunable(network: nn.Module, exclude: Sequence[str] = (), include: Sequence[str] = ()) -> dict[str, torch.Size]:
    """Returns name and shape of the matrix-like weights that are not prunable, though they are not excluded.

    They stay dense. Examples are embeddings and the weights of reparametrised layers.

    Args:
        network: The network.
        exclude: See :func:`prunable`.
        include: See :func:`prunable`.
    """
    others = _matrices(network, include)
    return {name: shape for name, shape in others.items() if not any(_is_in(name, given) for given in exclude)}


def _candidates(network: nn.Module, include: Sequence[str]) -> dict[str, torch.Size]:
    weights = {id(parameter) for kind in KINDS.values() for parameter in kind.parameters_in(network)}
    weights |= {id(parameter) for given in include for parameter in _included(network, given)}
    found = {name: parameter for name, parameter in network.named_parameters() if id(parameter) in weights}
    for name, parameter in found.items():
        if fault := _fault(network, name, parameter):
            raise InputError(f"{name} {list(parameter.shape)} cannot be prunable: it {fault}.")
    return {name: parameter.shape for name, parameter in found.items()}


def _included(network: nn.Module, given: str) -> list[nn.Parameter]:
    """Returns the parameters that an included name stands for."""
    parameters = dict(network.named_parameters(remove_duplicate=False))  # a tied one has several names
    if given in parameters:
        return [parameters[given]]
    found = [p for name, p in parameters.items() if _is_in(name, given) and _is_matrix(p) and not _fault(network, name, p)]
    if not found:
        known = [name for name, p in parameters.items() if _is_matrix(p) and not _fault(network, name, p)]
        raise InputError(
            f"cannot include {given!r}: no weights of that name; expected one of {', '.join(known) or 'none'}, or a module "
            f"that holds some."
        )
    return found


def _fault(network: nn.Module, name: str, parameter: Tensor) -> str:
    """Returns why a parameter is never prunable; empty if it can be."""
    owner, _, own = name.rpartition(".")
    if own == "bias":
        return "is a bias"
    if isinstance(network.get_submodule(owner), _NORMS):
        return "belongs to normalisation"
    return "has one dimension; a bias or a scale is no weight between units" if parameter.ndim < 2 else ""


def _matrices(network: nn.Module, include: Sequence[str]) -> dict[str, torch.Size]:
    """Returns the parameters that have two dimensions or more of several elements, and are not prunable."""
    known = _candidates(network, include)
    return {name: p.shape for name, p in network.named_parameters() if name not in known and _is_matrix(p)}


def _is_matrix(parameter: Tensor) -> bool:
    return sum(length > 1 for length in parameter.shape) > 1


def uses(network: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, float]:
    """Returns how often an example's forward pass uses each element of some weights.

    A linear layer on vectors uses it once, a convolution once at each position of its output, attention once for each token,
    and a recurrent layer once in each time step. The multiply-adds of all products with the weight are counted, wherever they
    are computed: attention reads its output layer's weight directly. A product by elements counts, too. A look-up in an
    embedding and an addition multiply nothing, and count 0. The count is a mean, and so may be a fraction, where the elements
    differ, such as those for queries, keys and values of attention to another sequence.

    Args:
        network: The network, whose mode is changed.
        names: Names of its prunable weights.
        x: One example, [1, ...].
    """
    if any(isinstance(module, nn.RNNBase) for module in network.modules()):
        network, x = network.cpu(), x.cpu()  # on a GPU all its weights are one tensor
    parameters = {name: parameter for name, parameter in network.named_parameters() if name in names}
    modules = [module for module in network.modules() if isinstance(module, PRUNABLE_MODULES)]
    layers = {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}
    others = {name for name, parameter in parameters.items() if id(parameter) not in layers}
    counter = _Counter({parameter.untyped_storage().data_ptr(): name for name, parameter in parameters.items()}, others)
    with without_fast_path(), torch.no_grad(), seeds.seeded(0, str(x.device)), counter:
        network.eval()(x)
    found: dict[str, float] = {}
    for name in names:
        whole, rest = divmod(counter.multiply_adds[name], parameters[name].numel())
        found[name] = whole + rest / parameters[name].numel() if rest and name in others else whole
    return found


def _count_elementwise(weight: Tensor, args: Any, result: Tensor) -> int:
    is_product = all(isinstance(factor, Tensor) and factor.numel() > 1 for factor in args[:2])  # else it is only scaled
    return result.numel() if is_product else 0


# Multiply-adds on a weight of further operations, for which torch has no formula of flops.
_PRODUCTS: Mapping[Any, Callable[[Tensor, Any, Any], int]] = {
    torch.ops.aten.mul: _count_elementwise,
    torch.ops.aten.mul_: _count_elementwise,
    torch.ops.aten.mv: lambda weight, args, result: args[0].numel(),
    torch.ops.aten.addmv: lambda weight, args, result: args[1].numel(),
    torch.ops.aten.dot: lambda weight, args, result: args[0].numel(),
    torch.ops.aten._trilinear: lambda weight, args, result: weight.numel() * args[0].shape[0],  # nn.Bilinear
    # a layer and direction of an LSTM, with inputs [steps, batch, features]
    torch.ops.aten.mkldnn_rnn_layer: lambda weight, args, result: weight.numel() * args[0].shape[0] * args[0].shape[1],
}
_COPIES = (torch.ops.aten.clone, torch.ops.aten._to_copy)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of the products that each weight takes part in, by torch's formulas of their flops.

    Args:
        weights: Names of weights by the address of their memory.
        others: The names among them that are not of linear and convolutional layers. Of these, products without such a formula
            and products of copies count, too; a layer's count is that of earlier versions.
    """

    def __init__(self, weights: Mapping[int, str], others: Collection[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights, self.others = dict(weights), others
        self.copies: list[Tensor] = []  # kept, so that no other tensor gets their address
        self.multiply_adds: Counter[str] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keeps torch from importing its compiler, which takes two seconds: nothing is compiled here."""
        return False

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [argument for argument in args if isinstance(argument, Tensor) and argument.layout == torch.strided]
        found = {self.weights.get(tensor.untyped_storage().data_ptr()): tensor for tensor in tensors}
        formula = flop_registry.get(function._overloadpacket)
        for name, weight in found.items():
            if name is not None and formula is not None:
                self.multiply_adds[name] += formula(*args, **(kwargs or {}), out_val=result) // 2
            elif name in self.others:
                self._count_other(str(name), function._overloadpacket, weight, args, result)
        return result

    def _count_other(self, name: str, operation: Any, weight: Tensor, args: Any, result: Any) -> None:
        if operation in _PRODUCTS:
            self.multiply_adds[name] += _PRODUCTS[operation](weight, args, result)
        elif operation in _COPIES:
            self.weights[result.untyped_storage().data_ptr()] = name
            self.copies.append(result)


def _is_in(name: str, given: str) -> bool:
    return name == given or name.startswith(f"{given}.")
