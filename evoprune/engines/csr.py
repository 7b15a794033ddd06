"""Products with a sparse matrix whose pattern stays and whose values are trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Pattern:
    """Where the surviving weights of one layer of K individuals lie: CSR of the matrix, and of its transpose.

    Args:
        flat: Flat indices of the survivors in the dense [out, in]: of individual 0, ascending, then 1, ...
        counts: Number of survivors of each individual.
        shape: The dense layer's (out, in).
        shared: Whether all individuals read the same input: [K * out, in] instead of block-diagonal [K * out, K * in].
    """

    def __init__(self, flat: Tensor, counts: Sequence[int], shape: tuple[int, int], shared: bool) -> None:
        self.shared = shared
        size, (out, fan_in) = len(counts), shape
        self.shape = (size * out, fan_in if shared else size * fan_in)
        individual = torch.repeat_interleave(torch.arange(size), torch.tensor(counts)).to(flat.device)
        row = flat // fan_in + individual * out
        col = flat % fan_in + (0 if shared else individual * fan_in)
        self.index = torch.int32 if max(len(row), *self.shape) < 2**31 else torch.int64
        self.crow, self.col = self._pointers(row, self.shape[0]), col.to(self.index)
        if not shared:
            order = torch.argsort(col, stable=True)
            self.transposed_crow, self.transposed_col = self._pointers(col, self.shape[1]), row[order].to(self.index)
            self.order = order.to(self.index)

    def times(self, values: Tensor, x: Tensor) -> Tensor:
        """Returns matrix [rows, columns] times x [columns, batch]."""
        return _csr_times(self.crow, self.col, values, x)

    def transposed_times(self, values: Tensor, dy: Tensor) -> Tensor:
        """Returns the transposed matrix times dy [rows, batch]."""
        return _csr_times(self.transposed_crow, self.transposed_col, values.index_select(0, self.order), dy)

    def sampled(self, dy: Tensor, x: Tensor) -> Tensor:
        """Returns dy @ x.T, [rows, columns], where the matrix has values."""
        values = dy.new_zeros(len(self.col))
        if len(values):
            out = torch.sparse_csr_tensor(self.crow, self.col, values, self.shape, check_invariants=False)
            torch.sparse.sampled_addmm(out, dy, x.t(), out=out)  # in place: ``out`` shares its values with ``values``
        return values

    def _pointers(self, index: Tensor, n: int) -> Tensor:
        counts = torch.bincount(index, minlength=n)
        return F.pad(counts.cumsum(0), (1, 0)).to(self.index)


class Product(torch.autograd.Function):
    """Sparse matrix times dense plus bias, then ReLU where asked; with the gradients of values, input and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, pattern: Pattern, relu: bool) -> Tensor:
        """Returns [rows, batch]."""
        y = pattern.times(values, x)
        if bias is not None:
            y.add_(bias.unsqueeze(1))
        if relu:
            y.relu_()
        ctx.pattern, ctx.relu = pattern, relu
        ctx.save_for_backward(x, values, y if relu else None)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of x, values and bias."""
        x, values, y = ctx.saved_tensors
        dy = torch.ops.aten.threshold_backward(dy, y, 0) if ctx.relu else dy
        dy = dy.contiguous()
        return (
            ctx.pattern.transposed_times(values, dy) if ctx.needs_input_grad[0] else None,
            ctx.pattern.sampled(dy, x) if ctx.needs_input_grad[1] else None,
            dy.sum(1) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


def _csr_times(crow: Tensor, col: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """CSR [rows, len(x)] times x [len(x), batch]; each row is summed in the order of its indices."""
    rows = len(crow) - 1
    if len(values) == 0:
        return x.new_zeros(rows, x.shape[1])
    if x.dtype == torch.float32 and x.device.type == "cpu":
        # a row of the product is a bag of an embedding with weights, whose kernel is 2 to 4 times as fast as MKL's
        return F.embedding_bag(col, x, crow, mode="sum", per_sample_weights=values, include_last_offset=True)
    matrix = torch.sparse_csr_tensor(crow, col, values, (rows, len(x)), check_invariants=False)
    return torch.mm(matrix, x)


def hear_the_beta_warning() -> None:
    """Lets torch say once, unheard, that its CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 1))
