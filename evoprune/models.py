"""Networks by name, and how their initial weights are drawn."""

from __future__ import annotations

import math
import types
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from evoprune import seeds
from evoprune.errors import InputError, look_up

PRUNABLE_MODULES = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True)
class NamedModel:
    """A network by name.

    Attributes:
        build: Called with the shape of one input, the number of classes and the hidden widths.
        widths: The default hidden widths.
        loss: The loss that it is made for.
    """

    build: Callable[[Sequence[int], int, Sequence[int]], nn.Module]
    widths: tuple[int, ...]
    loss: str


def mlp(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> nn.Sequential:
    """Returns a fully connected perceptron with ReLU between its layers ``fc1``, ``fc2``, ...

    Args:
        input_shape: Shape of one input; it is flattened.
        classes: Number of outputs.
        widths: Hidden widths, any number of them.
    """
    sizes = [math.prod(input_shape), *widths, classes]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{i}"] = nn.Linear(fan_in, fan_out)
        if i < len(sizes) - 1:
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


def autoencoder(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> nn.Sequential:
    """Returns a fully connected autoencoder whose decoder mirrors its encoder.

    The output has the input's shape and is linear, since normalised pixels are not confined to [0, 1].

    Args:
        input_shape: Shape of one input.
        classes: Ignored: an autoencoder reconstructs its input.
        widths: Widths from the first hidden layer to the code; the decoder takes them in reverse.
    """
    network = mlp(input_shape, math.prod(input_shape), [*widths, *reversed(widths[:-1])])
    network.add_module("unflatten", nn.Unflatten(1, tuple(input_shape)))
    return network


def _lenet_300_100(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> nn.Sequential:
    """The fully connected LeNet of LeCun et al. (1998): two hidden layers of 300 and 100."""
    if tuple(widths) != (300, 100):
        raise InputError(f"widths {tuple(widths)} for lenet-300-100, which has (300, 100); use the model 'mlp'.")
    return mlp(input_shape, classes, widths)


MODELS = {
    "lenet-300-100": NamedModel(_lenet_300_100, (300, 100), "cross-entropy"),
    "mlp": NamedModel(mlp, (128, 64), "cross-entropy"),
    "autoencoder": NamedModel(autoencoder, (256, 64), "reconstruction"),
}


def build(name: str, input_shape: Sequence[int], classes: int, widths: Sequence[int] | None = None) -> nn.Module:
    """Builds a network by name, with whatever values PyTorch gives its parameters.

    Raises:
        InputError: An unknown name, or widths that are not positive integers.
    """
    model = look_up("model", name, MODELS)
    widths = model.widths if widths is None else tuple(widths)
    if any(not isinstance(width, int) or width < 1 for width in widths) or (not widths and name == "autoencoder"):
        raise InputError(f"widths are {widths}; expected positive integers, such as 300 100.")
    return model.build(input_shape, classes, widths)


def require_servable(network: nn.Module) -> None:
    """Checks that a network's modules can be copied, masked and trained as they are.

    Raises:
        InputError: One of them cannot: it is pruned or reparametrised by hooks, lazy, compiled, or has no values; the message
            says how to make it plain.
    """
    for name, module in network.named_modules(remove_duplicate=False):
        for is_such, what, cure in _NOT_SERVED:
            if is_such(module):
                raise InputError(f"{name or 'the network'} ({type(module).__name__}) {what}; {cure}.")
    _require_no_original(network)


def _require_no_original(network: nn.Module) -> None:
    """Refuses functions that hold a module of the network: a copy of it would go on using the original's.

    The rehearsal finds whatever else leads there, but not what is frozen, which leaves no trace in the loss's graph.
    """
    own = set(network.modules())
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            held = _held(value) if isinstance(value, types.FunctionType) else []
            if any(isinstance(thing, nn.Module) and thing in own for thing in held):
                raise InputError(
                    f"{f'{name}.' if name else ''}{attribute} is a function that holds a module of the network, such as self "
                    f"in a lambda; copies of the network, which are trained, would go on using this one. Make it a method."
                )


def _held(function: types.FunctionType) -> list[object]:
    """Returns what a function is bound to."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _has_hook(module: nn.Module, kinds: tuple[type, ...]) -> bool:
    return any(isinstance(hook, kinds) for hook in module._forward_pre_hooks.values())


# What is no plain module, what is said of it, and the cure.
_NOT_SERVED: tuple[tuple[Callable[[nn.Module], bool], str, str], ...] = (
    (
        lambda module: isinstance(module, torch.jit.ScriptModule),
        "is TorchScript, whose code cannot be read",
        "give the module that it was made from",
    ),
    (
        lambda module: hasattr(module, "_orig_mod") or module._compiled_call_impl is not None,
        "is compiled (torch.compile)",
        "give the module itself, model._orig_mod, or do not call model.compile()",
    ),
    (
        lambda module: isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)),
        "spreads over devices",
        "give the module inside, model.module",
    ),
    (
        lambda module: any(is_lazy(tensor) for tensor in _tensors(module)),
        "is lazy, and its weights have no shape yet",
        "send a batch through it first, model(x)",
    ),
    (
        lambda module: any(tensor.is_meta for tensor in _tensors(module)),
        "is on the device meta, without values",
        "give it values, model.to_empty(device='cpu') and a state_dict",
    ),
    (
        lambda module: any(tensor._backward_hooks for tensor in module.parameters(recurse=False)),
        "has parameters with hooks for gradients, which a copy of it loses",
        "freeze by requires_grad_(False), or change the gradient in the forward pass",
    ),
    (
        lambda module: _has_hook(module, (prune.BasePruningMethod,)),
        "is pruned by torch.nn.utils.prune, which hides its weight",
        "keep its mask, ep.Mask.from_layers({'NAME.weight': module.weight_mask}), call torch.nn.utils.prune.remove(module, "
        "'weight'), and train the mask by ep.train_mask(problem, mask)",
    ),
    (
        lambda module: _has_hook(module, (WeightNorm, SpectralNorm)),
        "is under the old torch.nn.utils.weight_norm or spectral_norm, which hides its weight",
        "call torch.nn.utils.remove_weight_norm or remove_spectral_norm first, or use torch.nn.utils.parametrizations",
    ),
)


def prunable(network: nn.Module, exclude: Sequence[str] = ()) -> dict[str, torch.Size]:
    """Returns name and shape of the prunable weights, in ``named_parameters`` order.

    Prunable are the weights of linear and convolutional layers; never biases, never normalisation.

    Args:
        network: The network.
        exclude: Names of parameters (``fc3.weight``) or of modules (``fc3``: all weights in it).

    Raises:
        InputError: An excluded name that fits nothing, or nothing left to prune.
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

    Such as those of reparametrised layers, embeddings, recurrent layers and attention's inputs: they stay dense.

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

    Once in a linear layer on vectors, once at each position of a convolution's output. Counted are the multiply-adds of the
    products that a weight takes part in, whoever calls for them: attention takes its output layer's weight itself.

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
        with torch.no_grad(), seeds.seeded(0), counter:
            network.eval()(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    return {name: counter.multiply_adds.get(name, 0) // sizes[name] for name in names}


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of the products that each weight takes part in, by torch's formulas of their flops.

    Args:
        weights: Names of weights by the address of what they hold.
    """

    def __init__(self, weights: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self.multiply_adds: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            tensors = [argument for argument in args if isinstance(argument, Tensor) and argument.layout == torch.strided]
            found = {self.weights.get(tensor.untyped_storage().data_ptr()) for tensor in tensors} - {None}
            for name in found:
                self.multiply_adds[str(name)] += formula(*args, **(kwargs or {}), out_val=result) // 2
        return result


def initialize(network: nn.Module, method: str, seed: int) -> None:
    """Draws the network's parameters anew, in place.

    Args:
        network: The network; its normalisation layers are reset to their defaults.
        method: ``kaiming`` (normal, fan in, gain of ReLU; He et al. 2015, eq. 10), ``xavier`` (normal; Glorot and
            Bengio 2010, eq. 12), both with zero biases; ``pytorch`` (each layer's own default); ``given`` (the
            values that it has).
        seed: Seeds the draws; torch's global state is left as it was.

    Raises:
        InputError: An unknown method.
    """
    draw = look_up("initialization", method, INITIALIZATIONS)
    if draw is None:
        return
    with seeds.seeded(seed):
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
            if isinstance(module, PRUNABLE_MODULES):
                draw(module.weight, module.bias)


def scale_for_density(network: nn.Module, densities: dict[str, float]) -> None:
    """Scales weights by 1 / sqrt(density), in place, so that a masked layer keeps the variance of its output.

    With a fraction d of its inputs left, a unit's pre-activation has d times the variance (He et al. 2015, eq. 7, with
    d * fan_in inputs).

    Args:
        network: The network.
        densities: Density in (0, 1] by parameter name.

    Raises:
        InputError: A density outside (0, 1], or a name that the network has not.
    """
    parameters = dict(network.named_parameters())
    for name, density in densities.items():
        weight = look_up("prunable weights", name, parameters)
        if not 0 < density <= 1:
            raise InputError(f"W0 is to be scaled for a density of {density} in {name}; expected one in (0, 1].")
        with torch.no_grad():
            weight.div_(math.sqrt(density))


def _kaiming(weight: Tensor, bias: Tensor | None) -> None:
    init.kaiming_normal_(weight, nonlinearity="relu")
    if bias is not None:
        init.zeros_(bias)


def _xavier(weight: Tensor, bias: Tensor | None) -> None:
    init.xavier_normal_(weight)
    if bias is not None:
        init.zeros_(bias)


def _keep(weight: Tensor, bias: Tensor | None) -> None:
    """Leaves what ``reset_parameters`` drew."""


INITIALIZATIONS: dict[str, Callable[[Tensor, Tensor | None], None] | None] = {
    "kaiming": _kaiming,
    "xavier": _xavier,
    "pytorch": _keep,
    "given": None,
}


def _is_in(name: str, given: str) -> bool:
    return name == given or name.startswith(f"{given}.")
