"""A prunable kind: a layer whose matrix is the product of two thin ones, and a network with it."""

import torch
from torch import nn

import evoprune as ep


@ep.register.prunable("low-rank", weights=("left", "right"))
class LowRank(nn.Module):
    def __init__(self, inputs, outputs, rank=4):
        super().__init__()
        self.left = nn.Parameter(torch.randn(inputs, rank) / inputs**0.5)
        self.right = nn.Parameter(torch.randn(rank, outputs) / rank**0.5)

    def forward(self, x):
        return x @ self.left @ self.right


@ep.register.model("low-rank")
def low_rank(input_shape, classes, widths=(16,)):
    inputs = 1
    for size in input_shape:
        inputs *= size
    return nn.Sequential(nn.Flatten(), LowRank(inputs, widths[0]), nn.ReLU(), nn.Linear(widths[0], classes))
