"""Fused kernels of torch, switched off where they show no products or have no derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Lets attention compute by separate operations in evaluation mode, too, and not by one that shows no products."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Lets attention compute by matrix products alone, which torch.func can follow without a loop over the individuals."""
    with without_fast_path(), sdpa_kernel(SDPBackend.MATH):
        yield


def without_cudnn(network: nn.Module) -> AbstractContextManager[None]:
    """Lets recurrent layers on a GPU compute without cuDNN, which gives no gradients in evaluation mode, and no second ones."""
    tensors = [p for module in network.modules() if isinstance(module, nn.RNNBase) for p in module.parameters()]
    fused: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=False)
    return fused if any(tensor.is_cuda for tensor in tensors) else nullcontext()
