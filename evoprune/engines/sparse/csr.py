"""Chains of sparse layers whose patterns stay and whose values are trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


class Layer:
    """The linear layers of K individuals as one sparse matrix: places of the parameters in a vector, and connections.

    Args:
        linear: The dense layer, at W0.
        survivors: For each individual, the flat indices of its surviving weights, ascending.
        relu: ReLU follows.

    Attributes:
        counts: Number of survivors of each individual.
    """

    def __init__(self, linear: nn.Linear, survivors: Sequence[NDArray[np.int64]], relu: bool) -> None:
        self.size, self.shape, self.relu = len(survivors), (linear.out_features, linear.in_features), relu
        self.device = linear.weight.device
        self.has_bias = linear.bias is not None
        self.kinds = ["weight", "bias"] if self.has_bias else ["weight"]
        self._set(survivors)

    def _set(self, survivors: Sequence[NDArray[np.int64]]) -> None:
        index = np.int32 if self.shape[0] * self.shape[1] < 2**31 else np.int64
        self.indices = torch.from_numpy(np.concatenate(survivors, dtype=index, casting="same_kind")).to(self.device)
        self.counts = [len(indices) for indices in survivors]
        self._pattern: Pattern | None = None

    @property
    def length(self) -> int:
        """Number of parameters."""
        return len(self.indices) + (self.size * self.shape[0] if self.has_bias else 0)

    def pack(self, dense: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Returns the parameters, from each individual's dense ones.

        The survivors of individual 0, then 1, ..., each row by row; then the biases [K * out], if any.
        """
        indices = torch.split(self.indices, self.counts)
        values = [tensors["weight"].reshape(-1)[index] for tensors, index in zip(dense, indices, strict=True)]
        return torch.cat(values + [tensors["bias"] for tensors in dense] if self.has_bias else values)

    def parts(self, vector: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns values and biases in a vector of the layer's parameters."""
        n = len(self.indices)
        return vector[:n], vector[n:] if self.has_bias else None

    def pattern(self, shared: bool) -> Pattern:
        """Returns the places of the values in the matrix; its columns are the shared input, or each individual's."""
        if self._pattern is None or self._pattern.shared != shared:
            self._pattern = Pattern(self.indices, self.counts, self.shape, shared)
        return self._pattern

    def unpack(self, k: int, vector: Tensor) -> dict[str, Tensor]:
        """Returns the dense parameters of individual k."""
        values, biases = self.parts(vector)
        weight = values.new_zeros(self.shape[0] * self.shape[1])
        weight[torch.split(self.indices, self.counts)[k]] = torch.split(values, self.counts)[k]
        tensors = {"weight": weight.view(self.shape)}
        return tensors if biases is None else tensors | {"bias": biases.view(self.size, -1)[k].clone()}

    def set_survivors(self, survivors: Sequence[NDArray[np.int64]], positions: Tensor) -> Tensor:
        """Replaces the survivors.

        Args:
            survivors: For each individual, the flat indices of the weights that survive from now on, ascending.
            positions: A number for each of the layer's parameters as they are.

        Returns:
            The numbers of the parameters as they are from now on; -1 for weights that were not there.
        """
        values, biases = self.parts(positions)
        before = torch.split(self.indices, self.counts), torch.split(values, self.counts)
        self._set(survivors)
        parts = []
        for old, numbers, new in zip(*before, torch.split(self.indices, self.counts), strict=True):
            place = torch.searchsorted(old, new)  # the end, for an index beyond the last
            is_old = F.pad(old, (0, 1), value=-1)[place] == new
            parts.append(torch.where(is_old, F.pad(numbers, (0, 1))[place], -1))
        return torch.cat(parts if biases is None else [*parts, biases])


class Pattern:
    """The places of the surviving weights of one layer of K individuals: CSR of the matrix, and of its transpose.

    Args:
        indices: Flat indices of the survivors in the dense [out, in]: of individual 0, ascending, then 1, ...
        counts: Number of survivors of each individual.
        shape: The dense layer's (out, in).
        shared: Whether all individuals read the same input: [K * out, in] instead of block-diagonal [K * out, K * in].
    """

    def __init__(self, indices: Tensor, counts: Sequence[int], shape: tuple[int, int], shared: bool) -> None:
        self.shared = shared
        size, (out, fan_in) = len(counts), shape
        self.shape = (size * out, fan_in if shared else size * fan_in)
        index = torch.int32 if max(len(indices), *self.shape) < 2**31 else torch.int64
        individual = torch.repeat_interleave(torch.arange(size, dtype=index), torch.tensor(counts)).to(indices.device)
        row = indices // fan_in + individual * out
        self.col = indices % fan_in + (0 if shared else individual * fan_in)
        self.crow = _pointers(row, self.shape[0])
        if not shared:
            self.order = torch.argsort(self.col, stable=True).to(index)
            self.transposed_crow, self.transposed_col = _pointers(self.col, self.shape[1]), row[self.order]

    def times(self, values: Tensor, x: Tensor) -> Tensor:
        """Returns matrix [rows, columns] times x [columns, batch]."""
        return _csr_times(self.crow, self.col, values, x)

    def transposed_times(self, values: Tensor, dy: Tensor) -> Tensor:
        """Returns the transposed matrix times dy [rows, batch]."""
        return _csr_times(self.transposed_crow, self.transposed_col, values.index_select(0, self.order), dy)

    def add_sampled(self, values: Tensor, dy: Tensor, x: Tensor) -> None:
        """Adds dy @ x.T, [rows, columns], to the values, in place, at their places only."""
        if len(values):
            out = torch.sparse_csr_tensor(self.crow, self.col, values, self.shape, check_invariants=False)
            torch.sparse.sampled_addmm(out, dy, x.t(), out=out)  # ``out`` shares its values with ``values``


class Chain(torch.autograd.Function):
    """Sparse layers one after another, each with its bias and ReLU, if any; one node in autograd's graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, vector: Tensor, layers: Sequence[Layer], shared: bool) -> Tensor:
        """Returns [rows of the last layer, batch] of x [columns of the first, batch]; the vector holds all parameters."""
        patterns = [layer.pattern(shared and i == 0) for i, layer in enumerate(layers)]
        activations = [x]
        parts = _split(vector.detach(), layers)  # detached: embedding_bag would prepare its own backward pass
        for layer, pattern, part in zip(layers, patterns, parts, strict=True):
            values, biases = layer.parts(part)
            y = pattern.times(values, activations[-1])
            if biases is not None:
                y.add_(biases.unsqueeze(1))
            if layer.relu:
                y.relu_()
            activations.append(y)
        ctx.layers, ctx.patterns = layers, patterns
        # the output is saved only if the gradient needs it: tensors that are not saved may be changed in place by later modules
        saved = activations if layers[-1].relu else activations[:-1]
        ctx.save_for_backward(vector, *saved)
        return activations[-1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of x and of the vector."""
        vector, *activations = ctx.saved_tensors
        gradient = torch.zeros_like(vector)
        parts, gradients = _split(vector.detach(), ctx.layers), _split(gradient, ctx.layers)
        own = False  # a tensor from autograd may have other readers; one that is made here has none, and is changed in place
        for i in reversed(range(len(ctx.layers))):
            layer, pattern = ctx.layers[i], ctx.patterns[i]
            if layer.relu and own:
                torch.ops.aten.threshold_backward.grad_input(dy, activations[i + 1], 0, grad_input=dy)
            elif layer.relu:
                dy = torch.ops.aten.threshold_backward(dy, activations[i + 1], 0)
            dy = dy.contiguous()
            values, biases = layer.parts(gradients[i])
            pattern.add_sampled(values, dy, activations[i])
            if biases is not None:
                torch.sum(dy, 1, out=biases)
            if i > 0 or ctx.needs_input_grad[0]:
                dy, own = pattern.transposed_times(layer.parts(parts[i])[0], dy), True
        return dy if ctx.needs_input_grad[0] else None, gradient, None, None


def hear_the_beta_warning() -> None:
    """Lets torch say once, unheard, that its CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 1))


def _pointers(index: Tensor, n: int) -> Tensor:
    """Returns the start of each of n rows in entries that are sorted by row, and the end of the last."""
    return F.pad(torch.bincount(index, minlength=n).cumsum(0), (1, 0)).to(index.dtype)


def _split(vector: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, ...]:
    return torch.split(vector, [layer.length for layer in layers])


def _csr_times(crow: Tensor, col: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """CSR [rows, len(x)] times x [len(x), batch]; each row is summed in the order of its indices."""
    rows = len(crow) - 1
    if len(values) == 0:
        return x.new_zeros(rows, x.shape[1])
    if x.dtype == torch.float32 and x.device.type == "cpu":
        # a row of the product is a bag of an embedding with weights, whose kernel is 2 to 4 times as fast as MKL's
        y: Tensor = torch.embedding_bag(x, col, crow, False, 0, False, values, True)[0]
        return y
    matrix = torch.sparse_csr_tensor(crow, col, values, (rows, len(x)), check_invariants=False)
    return torch.mm(matrix, x)
