"""Problems of one output or several."""

from typing import Any

import torch
from torch import Tensor, nn

import evoprune as ep

X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, 0] * 2 + 1
LABELS = (Y > 1).long()
ROWS = {"train": slice(0, 200), "validation": slice(200, 250), "test": slice(250, 300)}


def network(outputs: int = 1, *more: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs), *more)


def of(y: Tensor, x: Tensor = X) -> ep.Data:
    return ep.Data(**{part: (x[rows], y[rows]) for part, rows in ROWS.items()})


def problem(y: Tensor, loss: Any = None, model: nn.Module | None = None, x: Tensor = X, **options: Any) -> ep.Problem:
    return ep.Problem(model or network(), of(y, x), loss=loss, seed=0, **options)
