"""Forward passes in the precision that a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def in_precision(call: Callable[[Tensor], Any], x: Tensor, precision: str) -> Any:
    """Returns the outputs of a network, as float32 where it computes in bfloat16.

    Args:
        call: The network.
        x: Its inputs.
        precision: ``full``, or ``bf16`` for torch's autocast: products in bfloat16, which has 8 significant bits, other
            operations as torch chooses. The parameters stay as they are.
    """
    if precision == "full":
        return call(x)
    with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
        outputs = call(x)
    return outputs.float() if isinstance(outputs, Tensor) else outputs
