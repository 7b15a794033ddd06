"""The prunable weights of a network, and how often an example uses each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from evoprune import seeds
from evoprune.errors import InputError

PRUNABLE_MODULES = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def prunable(network: nn.Module, exclude: Sequence[str] = ()) -> dict[str, torch.Size]:
    """Returns name and shape of the prunable weights, in ``named_parameters`` order.

    Prunable are the weights of linear and convolutional layers; never biases, never normalisation.

    Args:
        network: The network.
        exclude: Names of parameters (``fc3.weight``) or of modules (``fc3``: all weights in it).

    Raises:
        InputError: An excluded name matches nothing, or nothing is left to prune.
    """
    candidates = _candidates(network)
    if not candidates:
        others = ", ".join(_matrices(network)) or "none"
        raise InputError(
            f"nothing to prune: the network has no linear or convolutional layer with a plain weight. Weights of other kinds: "
            f"{others}."
        )
    known = [*candidates, *_matrices(network)]
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


def unprunable(network: nn.Module, exclude: Sequence[str] = ()) -> dict[str, torch.Size]:
    """Returns name and shape of the matrix-like weights that are not prunable, though they are not excluded.

    They stay dense. Examples are the weights of reparametrised layers, embeddings, recurrent layers and attention's inputs.

    Args:
        network: The network.
        exclude: See :func:`prunable`.
    """
    others = _matrices(network)
    return {name: shape for name, shape in others.items() if not any(_is_in(name, given) for given in exclude)}


def _candidates(network: nn.Module) -> dict[str, torch.Size]:
    weights = {id(module.weight) for module in network.modules() if isinstance(module, PRUNABLE_MODULES)}
    return {name: p.shape for name, p in network.named_parameters() if id(p) in weights}


def _matrices(network: nn.Module) -> dict[str, torch.Size]:
    """Returns the parameters that have two dimensions or more of several elements, and are not prunable."""
    known = _candidates(network)
    shapes = {name: p.shape for name, p in network.named_parameters() if name not in known}
    return {name: shape for name, shape in shapes.items() if sum(length > 1 for length in shape) > 1}


def uses(network: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, int]:
    """Returns how often an example's forward pass uses each element of some weights.

    A linear layer on vectors uses it once, a convolution once at each position of its output. The multiply-adds of all products
    with the weight are counted, wherever they are computed: attention reads its output layer's weight directly.

    Args:
        network: The network, whose mode is changed.
        names: Names of the weights, of layers that are prunable.
        x: One example, [1, ...].
    """
    weights = {parameter.untyped_storage().data_ptr(): name for name, parameter in network.named_parameters() if name in names}
    counter = _Counter(weights)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation that shows no products
    try:
        with torch.no_grad(), seeds.seeded(0, str(x.device)), counter:
            network.eval()(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    return {name: counter.multiply_adds.get(name, 0) // sizes[name] for name in names}


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of the products that each weight takes part in, by torch's formulas of their flops.

    Args:
        weights: Names of weights by the address of their memory.
    """

    def __init__(self, weights: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self.multiply_adds: Counter[str] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keeps torch from importing its compiler, which takes two seconds: nothing is compiled here."""
        return False

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            tensors = [argument for argument in args if isinstance(argument, Tensor) and argument.layout == torch.strided]
            found = {self.weights.get(tensor.untyped_storage().data_ptr()) for tensor in tensors} - {None}
            for name in found:
                self.multiply_adds[str(name)] += formula(*args, **(kwargs or {}), out_val=result) // 2
        return result


def _is_in(name: str, given: str) -> bool:
    return name == given or name.startswith(f"{given}.")
