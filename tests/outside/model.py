"""A model: a perceptron whose hidden layers add to their input."""

from torch import nn

import evoprune as ep


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return x + nn.functional.relu(self.layer(x))


@ep.register.model("residual")
def residual(input_shape, classes, widths=(16, 16)):
    inputs = 1
    for size in input_shape:
        inputs *= size
    blocks = [Block(widths[0]) for _ in widths]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, widths[0]), *blocks, nn.Linear(widths[0], classes))
