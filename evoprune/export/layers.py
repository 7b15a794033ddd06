"""Layers that hold their surviving weights alone, and that autograd trains."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from evoprune.engines.sparse.plan import Plan, run
from evoprune.engines.sparse.support import DTYPES, fault
from evoprune.errors import InputError
from evoprune.masks.mask import Mask

Positions = Tensor | NDArray[Any]
# Plans that a layer keeps, for inputs of different shapes.
_MOST_PLANS = 32


class Factory(TypedDict, total=False):
    """Where the parameters lie, and their type, as torch's layers take them."""

    device: torch.device | str | None
    dtype: torch.dtype | None


class Geometry(Factory, total=False):
    """The options of a convolution, as ``torch.nn.Conv2d`` takes them."""

    stride: int | tuple[int, int]
    padding: int | tuple[int, int] | str
    dilation: int | tuple[int, int]
    groups: int


class SparseLayer(nn.Module):
    """A layer of which only the surviving weights exist.

    Attributes:
        values: The surviving weights [survivors], a parameter: an optimiser moves, decays and remembers them alone.
        positions: Their flat indices in the dense weight, ascending [survivors].
        bias: The bias, or None.
        weight_shape: Shape of the dense weight.
    """

    values: nn.Parameter
    positions: Tensor
    bias: nn.Parameter | None

    def __init__(self, weight_shape: Sequence[int], survivors: Tensor, bias: bool, **factory: Unpack[Factory]) -> None:
        super().__init__()
        if unknown := sorted(factory.keys() - Factory.__annotations__.keys()):
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {unknown[0]!r}")
        kind = factory.get("dtype") or torch.get_default_dtype()
        if not kind.is_floating_point:
            raise InputError(f"dtype is {kind}; expected a floating point type, such as torch.float32.")
        device = factory.get("device")
        self.weight_shape = tuple(weight_shape)
        self.register_buffer("positions", survivors.to(device))
        self.values = nn.Parameter(torch.empty(len(survivors), device=device, dtype=kind))
        self.register_parameter("bias", nn.Parameter(torch.empty(weight_shape[0], device=device, dtype=kind)) if bias else None)
        self._plans: dict[Any, Plan] = {}
        self._seen: tuple[Tensor | None, int] = (None, 0)
        self.reset_parameters()

    @property
    def mask(self) -> Tensor:
        """True where a weight survives, in the shape of the dense weight."""
        flat = torch.zeros(math.prod(self.weight_shape), dtype=torch.bool, device=self.positions.device)
        flat[self.positions] = True
        return flat.view(self.weight_shape)

    def reset_parameters(self) -> None:
        """Draws new values: as torch's layers do, but for the number of survivors of a row, as Evci et al. (AAAI 2022) say.

        Values and bias are uniform between -b and b; b is 1 over the root of the survivors of the row (of all weights of a row
        for the bias), so that sparse layers pass signals on as dense ones do.
        """
        fan = math.prod(self.weight_shape[1:])
        rows = self.positions // max(fan, 1)
        counts = torch.bincount(rows, minlength=self.weight_shape[0])
        with torch.no_grad():
            self.values.uniform_(-1, 1).mul_(counts[rows].to(self.values.dtype).rsqrt())
            if self.bias is not None:
                self.bias.uniform_(-1, 1).mul_(1 / math.sqrt(max(fan, 1)))

    @property
    def weight(self) -> Tensor:
        """The dense weight, computed from the values, to which autograd takes its gradient back. It cannot be set."""
        flat = self.values.new_zeros(math.prod(self.weight_shape))
        return flat.index_copy(0, self.positions, self.values).view(self.weight_shape)

    def skeleton(self) -> nn.Module:
        """Returns the dense layer without numbers, on the device ``meta``."""
        return self._dense("meta")

    def to_dense(self) -> nn.Module:
        """Returns the dense layer of torch with the same outputs; removed weights are zero."""
        layer: Any = self._dense(self.values.device)
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        for mine, other in ((self.values, layer.weight), (self.bias, layer.bias)):
            if mine is not None:
                other.requires_grad_(mine.requires_grad)
        return layer.train(self.training)  # type: ignore[no-any-return]

    def survivors(self) -> NDArray[np.int64]:
        """Returns the positions for the kernels.

        Raises:
            InputError: They are not ascending, or not positions of the weight: a wrong ``state_dict`` was loaded.
        """
        found: NDArray[np.int64] = self.positions.numpy()
        n = math.prod(self.weight_shape)
        if len(found) and (found[0] < 0 or found[-1] >= n or (np.diff(found) <= 0).any()):
            raise InputError(f"positions of survivors are {found}; expected ascending numbers from 0 to {n - 1}.")
        return found

    def kernels_serve(self, x: Tensor) -> bool:
        """Tells whether the compiled kernels can compute the outputs of some inputs."""
        kind = self.values.dtype
        is_plain = type(x) in (Tensor, nn.Parameter) and x.dtype == kind and x.is_cpu and self.values.is_cpu
        return is_plain and kind in DTYPES and _has_kernels() and not is_followed()

    def _apply_kernels(self, x: Tensor) -> Tensor:
        """Returns the outputs [n, ...] of inputs [n, ...]."""
        seen = (self.positions, version_of(self.positions))
        if self._seen[0] is not seen[0] or self._seen[1] != seen[1]:
            self._plans, self._seen = {}, seen
        wants_input = x.requires_grad and torch.is_grad_enabled()
        key = (x.shape[1:], x.dtype, wants_input)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans = {}
            plan = self._plans[key] = Plan(self.skeleton(), x.shape[1:], {"weight": self.survivors()}, wants_input)
        parameters = [self.values] if self.bias is None else [self.values, self.bias]
        return run(plan, x, parameters, (), False)

    def _dense(self, device: torch.device | str) -> nn.Module:
        raise NotImplementedError

    def _take(self, layer: Any) -> Self:
        """Takes the numbers of a dense layer."""
        with torch.no_grad():
            self.values.copy_(layer.weight.reshape(-1)[self.positions])
            if self.bias is not None:
                self.bias.copy_(layer.bias)
        self.values.requires_grad_(layer.weight.requires_grad)
        if self.bias is not None:
            self.bias.requires_grad_(layer.bias.requires_grad)
        return self.train(layer.training)

    def _count(self) -> str:
        n = math.prod(self.weight_shape)
        return f"survivors={len(self.values)} of {n} ({len(self.values) / max(n, 1):.1%}), bias={self.bias is not None}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}, "_seen": (None, 0)}


class SparseLinear(SparseLayer):
    """A linear layer of which only the surviving weights exist.

    On the CPU, forward and backward passes run in the compiled kernels of the engine ``sparse``, and their work grows with the
    survivors. On other devices, and for other types than float32 and float64, the layer computes with its dense weight: the
    same function, without the gain. The gradient of the kernels cannot be differentiated again.

    Args:
        in_features: Length of the inputs' last dimension.
        out_features: Length of the outputs'.
        mask: True where a weight survives, [out_features, in_features], or the flat indices of the survivors.
        sparsity: In the place of a mask: the fraction of the weights that are removed, at random places from torch's generator.
        bias: Whether it has a bias.
        factory: ``device`` and ``dtype``.

    Raises:
        InputError: Neither or both of mask and sparsity, or values that do not fit.

    Example:
        >>> layer = SparseLinear(784, 300, sparsity=0.98)
        >>> layer(torch.zeros(64, 784)).shape
        torch.Size([64, 300])
    """

    def __init__(
        self, in_features: int, out_features: int, mask: Positions | None = None, sparsity: float | None = None,
        bias: bool = True, **factory: Unpack[Factory],
    ) -> None:  # fmt: skip
        _require_sizes(in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        shape = (out_features, in_features)
        super().__init__(shape, survivors_of(shape, mask, sparsity), bias, **factory)

    @classmethod
    def from_dense(cls, layer: nn.Linear, mask: Positions | None = None) -> Self:
        """Returns the sparse layer with the weights of a dense one.

        Args:
            layer: The dense layer.
            mask: As of the class; None: the weights that are not zero.

        Raises:
            InputError: It is no plain ``nn.Linear``, or the mask does not fit.
        """
        weight = _plain_weight(layer, nn.Linear)
        made = cls(
            layer.in_features, layer.out_features, weight != 0 if mask is None else mask, bias=layer.bias is not None,
            device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        return made._take(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs [..., out_features] of inputs [..., in_features]."""
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise InputError(f"inputs have the shape {tuple(x.shape)}; expected [..., {self.in_features}].")
        _require_type(x, self.values)
        if x.numel() == 0 or not self.kernels_serve(x):
            return F.linear(x, self.weight, self.bias)
        outputs = self._apply_kernels(x if x.ndim == 2 else x.reshape(-1, self.in_features))
        return outputs if x.ndim == 2 else outputs.view(*x.shape[:-1], self.out_features)

    def _dense(self, device: torch.device | str) -> nn.Linear:
        return nn.Linear(self.in_features, self.out_features, self.bias is not None, device=device, dtype=self.values.dtype)

    def extra_repr(self) -> str:
        """Returns sizes and survivors."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self._count()}"


class SparseConv2d(SparseLayer):
    """A convolution of which only the surviving weights exist; see :class:`SparseLinear`, also for devices and types.

    Args:
        in_channels: Channels of the inputs.
        out_channels: Channels of the outputs.
        kernel_size: Height and width of the kernel.
        mask: True where a weight survives, in the shape of the dense weight, or the flat indices of the survivors.
        sparsity: In the place of a mask: the fraction of the weights that are removed, at random places from torch's generator.
        bias: Whether it has a bias.
        options: ``stride``, ``padding``, ``dilation`` and ``groups`` as of ``torch.nn.Conv2d``; ``device`` and ``dtype``.

    Raises:
        InputError: Neither or both of mask and sparsity, or values that do not fit.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], mask: Positions | None = None,
        sparsity: float | None = None, bias: bool = True, **options: Unpack[Geometry],
    ) -> None:  # fmt: skip
        smallest = min(kernel_size) if isinstance(kernel_size, tuple) else kernel_size
        _require_sizes(in_channels=in_channels, out_channels=out_channels, kernel_size=smallest)
        factory: Any = {name: value for name, value in options.items() if name in ("device", "dtype")}
        geometry: Any = {name: value for name, value in options.items() if name not in factory}
        try:
            meta = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False, **geometry, device="meta")
        except ValueError as error:
            raise InputError(f"the options of the convolution do not fit each other: {error}.") from error
        if meta.padding_mode != "zeros":
            raise InputError(f"padding_mode is {meta.padding_mode!r}; expected 'zeros', which alone the kernels know.")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, meta.kernel_size
        self.stride, self.padding, self.dilation, self.groups = meta.stride, meta.padding, meta.dilation, meta.groups
        super().__init__(meta.weight.shape, survivors_of(meta.weight.shape, mask, sparsity), bias, **factory)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, mask: Positions | None = None) -> Self:
        """Returns the sparse layer with the weights of a dense one.

        Args:
            layer: The dense layer.
            mask: As of the class; None: the weights that are not zero.

        Raises:
            InputError: It is no plain ``nn.Conv2d`` that pads with zeros, or the mask does not fit.
        """
        weight = _plain_weight(layer, nn.Conv2d)
        if layer.padding_mode != "zeros":
            raise InputError(f"padding_mode is {layer.padding_mode!r}; expected 'zeros', which alone the kernels know.")
        options: Any = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        size: Any = layer.kernel_size
        made = cls(
            layer.in_channels, layer.out_channels, size, weight != 0 if mask is None else mask, bias=layer.bias is not None,
            device=weight.device, dtype=weight.dtype, **options,
        )  # fmt: skip
        return made._take(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs [n, out_channels, height, width] of inputs [n, in_channels, height, width], or one without n."""
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_channels:
            raise InputError(f"inputs have the shape {tuple(x.shape)}; expected [n, {self.in_channels}, height, width].")
        _require_type(x, self.values)
        if x.numel() == 0 or not self.kernels_serve(x):
            weight = self.weight
            return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return self._apply_kernels(x) if x.ndim == 4 else self._apply_kernels(x.unsqueeze(0)).squeeze(0)

    def _dense(self, device: torch.device | str) -> nn.Conv2d:
        return nn.Conv2d(
            self.in_channels, self.out_channels, self.kernel_size,  # type: ignore[arg-type]
            self.stride, self.padding, self.dilation, self.groups,  # type: ignore[arg-type]
            bias=self.bias is not None, device=device, dtype=self.values.dtype,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Returns sizes and survivors."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, {self._count()}"
        )


def survivors_of(shape: Sequence[int], mask: Positions | None, sparsity: float | None) -> Tensor:
    """Returns the flat indices of a weight's survivors, ascending.

    Args:
        shape: Shape of the weight.
        mask: A mask of that shape, or flat indices.
        sparsity: The fraction removed, in the place of a mask.

    Raises:
        InputError: Neither or both, or values that do not fit.
    """
    n = math.prod(shape)
    if mask is None and sparsity is None:
        raise InputError("neither mask nor sparsity is given; expected one of the two, such as sparsity=0.9.")
    if mask is not None and sparsity is not None:
        raise InputError(f"a mask is given, and sparsity is {sparsity}; expected one of the two.")
    if isinstance(mask, Mask):
        raise InputError(f"mask is that of a network; expected that of the layer: mask.layers[{next(iter(mask.shapes))!r}].")
    if mask is None:
        if not isinstance(sparsity, (int, float, np.number)) or not 0 <= float(sparsity) <= 1:
            raise InputError(f"sparsity is {sparsity!r}; expected a number from 0 to 1.")
        count = round((1 - float(sparsity)) * n)
        return torch.randperm(n)[:count].sort().values
    given = torch.as_tensor(mask).detach()
    if given.dtype == torch.bool:
        if given.shape != torch.Size(shape):
            raise InputError(f"mask has the shape {tuple(given.shape)}; expected that of the weight, {tuple(shape)}.")
        return given.reshape(-1).nonzero().squeeze(1)
    if given.is_floating_point() or given.is_complex() or given.ndim != 1:
        raise InputError(
            f"mask is {given.dtype} of the shape {tuple(given.shape)}; expected booleans of the shape {tuple(shape)}, or flat "
            f"indices of an integer type."
        )
    found = given.long().sort().values
    if len(found) and (found[0] < 0 or found[-1] >= n or (found.diff() == 0).any()):
        raise InputError(f"indices of survivors are from {found[0]} to {found[-1]}; expected different ones from 0 to {n - 1}.")
    return found


def version_of(tensor: Tensor) -> int:
    """Returns the number of changes in place of a tensor; one of inference mode does not count them."""
    return -1 if tensor.is_inference() else tensor._version


def is_followed() -> bool:
    """Tells whether torch now records the operations of a network, where the results of kernels would be constants."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _require_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or size < 1:
            raise InputError(f"{name} is {size!r}; expected a positive integer.")


def _require_type(x: Tensor, values: Tensor) -> None:
    if x.dtype != values.dtype and not torch.is_autocast_enabled(x.device.type):
        raise InputError(
            f"inputs are {x.dtype}, and the layer's values {values.dtype}; expected the same. Convert one of them."
        )


@functools.cache
def _has_kernels() -> bool:
    """Tells whether the kernels can be compiled here."""
    return not fault()


def _plain_weight(layer: nn.Module, kind: type[nn.Module]) -> Tensor:
    """Returns a layer's weight.

    Raises:
        InputError: The layer is of another class, or reparametrised.
    """
    weight: Mapping[str, Any] = layer._parameters
    if type(layer) is not kind or weight.get("weight") is None:
        raise InputError(
            f"the layer is {type(layer).__name__} with the parameters {list(weight)}; expected a plain nn.{kind.__name__}. "
            f"After torch.nn.utils.prune, call prune.remove first."
        )
    return weight["weight"].detach()  # type: ignore[no-any-return]
