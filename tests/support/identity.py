"""Networks whose code or values are changed a little."""

import importlib.util
import itertools
import sys
import types
from pathlib import Path

import torch

HELPERS = """
import torch
BEND = 0.5
UNREAD = 1
def bend(x):
    return torch.where(x > 0, x, BEND * x)
def unread(x):
    return x + 1
"""


SCRIPT = '''
"""A script."""
import enum
import functools
import math
from collections import namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import helpers_of_identity as helpers

SLOPE = 0.1
UNUSED = 1
TABLE = {"scale": 1.0}
ARGS = SimpleNamespace(gain=1.0, out="runs/a")
Range = namedtuple("Range", "low high")
ONE, OTHER = (lambda x: x + 0.0), (lambda x: x - 0.0)


class Kind(enum.Enum):
    SOFT = 1
    HARD = 2


@dataclass
class Shift:
    by: float = 0.0
    all: list = field(default_factory=lambda: [1.0])


class Slots:
    __slots__ = ("_power",)

    def __init__(self):
        self._power = 1.0


class Scale:
    """An object that is called."""

    bias = 0.0

    def __init__(self, factor):
        self._factor = factor
        self.tensor = torch.ones(1)
        self.array = np.ones(1)

    def __call__(self, x):
        return self.apply(x) + self.offset

    def apply(self, x):
        return x * self._factor * self.tensor * float(self.array[0])

    @property
    def offset(self):
        return self.bias

    @staticmethod
    def twice(x):
        return 2 * x


class Fresh:
    def __init__(self):
        self.factor = 1.0


def inner(x):
    return x * SLOPE


def outer(x, k=1.0, *, c=0.0):
    def nested(y):
        return y * k + c
    return nested(inner(x))


def make(width):
    def act(x):
        return x * width
    return act


@torch.no_grad()
def decorated(x):
    return x * 1.0


@functools.cache
def table(n):
    return float(n)


class Base(nn.Module):
    power = 1.0

    def before(self, x):
        return x * 1.0


class Net(Base):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 2)
        self.register_buffer("shift", torch.zeros(6))
        self.act = torch.relu
        self.more = functools.partial(F.leaky_relu, negative_slope=0.2)
        self.closed = make(1.0)
        self.scale = Scale(1.0)
        self.method = Scale(1.0).apply
        self.kind = Kind.SOFT
        self.moves = Shift()
        self.slots = Slots()
        self.range = Range(0, 1)
        self._hidden = [1.0, {"deep": 1.0}]
        self.function = lambda x: x * 1.0
        self.chosen = ONE
        self.np = np.tanh

    def forward(self, x):
        # a comment
        x = self.before(x)
        x = self.a(x) + self.shift
        x = self.closed(self.more(self.act(x)))
        x = outer(x) * TABLE["scale"] * ARGS.gain * table(1) * Fresh().factor
        x = helpers.bend(self.function(self.chosen(x)))
        x = self.method(self.scale(x)) ** self.slots._power
        x = x + self.moves.by + self.range.low + sum(self._hidden[:1]) * 0
        if self.kind is Kind.SOFT:
            from math import sqrt
            x = decorated(x) * 0 + x * sqrt(1.0)
        return self.b(x)


class Loss:
    def __init__(self):
        self._weight = 1.0
        self.classes = torch.ones(2)

    def __call__(self, outputs, targets):
        return self._weight * F.cross_entropy(outputs, targets, weight=self.classes)
'''


X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def load(script: Path) -> types.ModuleType:
    """Runs a script under a name of its own, as every process may."""
    spec = importlib.util.spec_from_file_location(f"script_{next(NUMBERS)}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


NUMBERS = itertools.count()
