"""Networks with statements that change values, and functions whose arguments stand in an order of their own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import evoprune as ep


class Code(nn.Module):
    """Two layers with a forward pass of the test's; half of the first one's outputs are constant."""

    def __init__(self, code: Callable[[Any, Tensor], Any], a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.code = a.double(), b.double(), code
        weight, bias = self.a.get_parameter("weight"), self.a.get_parameter("bias")
        weight.data[: len(weight) // 2] = 0
        bias.data.uniform_(0.2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        changed = self.code(self, y)
        return self.b(y if changed is None else changed)


def view_plus_one(net: Any, y: Tensor) -> None:
    view = y.view(-1, 8)
    view += 1


def another_name(net: Any, y: Tensor) -> None:
    z = y
    z *= 3


STATEMENTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "mul_": lambda net, y: (y.mul_(3), None)[1],
    "sigmoid_": lambda net, y: (y.sigmoid_(), None)[1],
    "clamp_": lambda net, y: (y.clamp_(0.9), None)[1],
    "elu_": lambda net, y: (F.elu_(y.sub_(2)), None)[1],
    "view": view_plus_one,
    "name": another_name,
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_that_changes_a_value_is_not_overlooked(name: str) -> None:
    torch.manual_seed(0)
    model = Code(STATEMENTS[name], nn.Linear(4, 8), nn.Linear(8, 3)).eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    with pytest.warns(UserWarning, match="changes a value in place"):
        small = ep.export.shrink(model)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)


def test_a_sum_in_place_is_followed() -> None:
    def add(net: Any, y: Tensor) -> Tensor:
        y += 1
        return y

    torch.manual_seed(0)
    model = Code(add, nn.Linear(4, 8), nn.Linear(8, 3)).eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    small = ep.export.shrink(model)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:these layers keep their width")
def test_a_divisor_behind_booleans_counts() -> None:
    torch.manual_seed(0)
    model = Code(lambda net, y: F.avg_pool2d(y, 2, 2, 0, False, True, 3), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    small = ep.export.shrink(model)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)
