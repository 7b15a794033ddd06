"""Sparse networks whose dense network changes values in place, or whose parts change after the first call."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import evoprune as ep
from evoprune.engines.sparse.plan import MOST_SIZES

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


class Code(nn.Module):
    """Two layers with a forward pass of the test's."""

    def __init__(self, code: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        for name, part in parts.items():
            self.add_module(name, part)
        self.code, self.flag = code, False

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


def sparse_of(dense: nn.Module) -> Any:
    """Returns the sparse network of one, half of whose matrices are set to zero."""
    torch.manual_seed(0)
    dense.double()
    masks = {name: torch.rand(p.shape) < 0.5 for name, p in dense.named_parameters() if p.ndim > 1}
    with torch.no_grad():
        for name, mask in masks.items():
            dense.get_parameter(name).mul_(mask)
    return ep.sparse(dense, masks)


def relu_in_place(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    z = torch.relu_(y)
    return net.b(y + z)


def module_in_place(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    z = net.relu(y)
    return net.b(y + z)


def sum_in_place(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    view = y.view(-1, 5)
    view += net.b(x)
    return net.a(y)


def sum_under_another_name(net: Any, x: Tensor) -> Tensor:
    y = z = net.a(x)
    z += net.b(x)
    return net.b(y)


@pytest.mark.parametrize("code", [relu_in_place, module_in_place, sum_in_place, sum_under_another_name])
def test_values_that_are_changed_in_place_and_read_elsewhere(code: Any) -> None:
    dense = Code(code, relu=nn.ReLU(inplace=True))
    sparse = sparse_of(dense)
    x = torch.randn(7, 5, dtype=torch.float64)
    assert "in place" in sparse.reason(x)
    torch.testing.assert_close(sparse(x), dense(x), **CLOSE)


def test_a_residual_sum_in_place_is_one_call() -> None:
    def residual(net: Any, x: Tensor) -> Tensor:
        y = net.b(F.relu(net.a(x), inplace=True))
        y += x
        return y

    dense = Code(residual)
    sparse, x = sparse_of(dense), torch.randn(7, 5, dtype=torch.float64)
    assert sparse.reason(x) == ""
    torch.testing.assert_close(sparse(x), dense(x), **CLOSE)


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
def test_outputs_of_a_layer_can_be_changed_in_place(shape: tuple[int, ...]) -> None:
    layer = ep.SparseLinear(5, 4, sparsity=0.5, dtype=torch.float64)
    x = torch.randn(*shape, dtype=torch.float64)
    y = layer(x)
    y += 1
    torch.relu_(y).sum().backward()
    expected = torch.autograd.grad(F.relu(layer(x) + 1).sum(), layer.values)[0]
    torch.testing.assert_close(layer.values.grad, expected, **CLOSE)


@pytest.mark.parametrize("code", [lambda net, x: net.a(x).mean((2, 3)).squeeze(), lambda net, x: net.a(x).squeeze(0)])
def test_one_example_loses_the_dimension_that_torch_takes_away(code: Any) -> None:
    dense = Code(code)
    dense.a = nn.Conv2d(2, 3, 2)
    sparse = sparse_of(dense)
    for n in (1, 3):
        x = torch.randn(n, 2, 4, 4, dtype=torch.float64)
        torch.testing.assert_close(sparse(x), dense(x), **CLOSE)


def test_one_example_cannot_be_normalised_in_training() -> None:
    sparse = sparse_of(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    x = torch.randn(1, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        sparse(x)
    assert sparse.eval().reason(x) == "" and sparse(x).shape == (1, 4)


def test_statistics_of_a_normalisation_that_is_called_twice() -> None:
    dense = Code(lambda net, x: net.norm(net.a(net.norm(x))), norm=nn.BatchNorm1d(5))
    sparse, x = sparse_of(dense), torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(sparse(x), dense(x), **CLOSE)
    assert sparse.network.norm.num_batches_tracked == 2
    torch.testing.assert_close(sparse.network.norm.running_var, dense.norm.running_var, **CLOSE)


def _set_bias(net: Any) -> None:
    net.b.bias = None


def _set_forward(net: Any) -> None:
    net.b.forward = lambda x: 100 * x


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a flag": lambda net: setattr(net, "flag", True),
    "a slope": lambda net: setattr(net.leaky, "negative_slope", 0.9),
    "a tolerance": lambda net: setattr(net.norm, "eps", 3.0),
    "no bias": _set_bias,
    "another forward": _set_forward,
    "pruning": lambda net: prune.l1_unstructured(net.b, "weight", 0.5),
    "weight normalisation": lambda net: parametrizations.weight_norm(net.b),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts_that_change_after_the_first_call_count(change: str) -> None:
    def code(net: Any, x: Tensor) -> Tensor:
        return net.a(x) if net.flag else net.b(net.leaky(net.norm(net.a(x))))

    dense = Code(code, leaky=nn.LeakyReLU(0.1), norm=nn.LayerNorm(5)).double()
    sparse: Any = ep.sparse(dense, {"a.weight": torch.rand(5, 5) < 0.5})
    x = torch.randn(7, 5, dtype=torch.float64)
    before = sparse(x)
    assert sparse.reason(x) == ""
    CHANGES[change](sparse.network)
    torch.testing.assert_close(sparse(x), sparse.network(x), **CLOSE)
    assert not torch.allclose(sparse(x), before) or change == "weight normalisation"


def test_layers_that_share_a_weight_and_a_bias_share_them_there_and_back() -> None:
    dense = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    dense[2].weight, dense[2].bias = dense[0].weight, dense[0].bias
    mask = torch.rand(4, 4) < 0.5
    sparse: Any = ep.sparse(dense, {"0.weight": mask})
    assert len(list(sparse.parameters())) == 2
    back: Any = sparse.to_dense()
    assert back[0].weight is back[2].weight and back[0].bias is back[2].bias
    assert back[0].bias is not sparse.network[0].bias
    with pytest.raises(ep.InputError, match=r"0.weight and 2.weight are one parameter of the model"):
        ep.sparse(dense, {"0.weight": mask, "2.weight": ~mask})


def test_networks_of_inference_mode() -> None:
    with torch.inference_mode():
        sparse = sparse_of(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))
        layer = ep.SparseLinear(5, 3, sparsity=0.5, dtype=torch.float64)
        x = torch.randn(7, 5, dtype=torch.float64)
        for network in (sparse, layer):
            torch.testing.assert_close(network(x), network.to_dense()(x), **CLOSE)


def test_a_trace_is_a_function_of_its_inputs() -> None:
    sparse = sparse_of(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))
    x, other = torch.randn(2, 7, 5, dtype=torch.float64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its trace deprecated
        traced = torch.jit.trace(sparse, x)
        torch.testing.assert_close(traced(other), sparse(other), **CLOSE)


def test_the_memory_for_numbers_of_examples_is_bounded() -> None:
    layer = ep.SparseLinear(5, 3, sparsity=0.5)
    for n in range(1, 20):
        layer(torch.zeros(n, 5))
    (plan,) = layer._plans.values()
    assert len(plan._prepared) <= MOST_SIZES and len(plan._seats) <= MOST_SIZES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ep.SparseLinear("4", 3, sparsity=0.5), "in_features is '4'"),  # type: ignore[arg-type]
        (lambda: ep.SparseLinear(4, 3, sparsity="a"), "sparsity is 'a'"),  # type: ignore[arg-type]
        (lambda: ep.SparseConv2d(2, 3, 0, sparsity=0.5), "kernel_size is 0"),
        (lambda: ep.sparse(nn.Linear(4, 4), "mask.npz"), "mask is str"),  # type: ignore[arg-type]
        (lambda: ep.sparse(nn.Linear(4, 4), {"weight": torch.ones(4, 4)}, example=[1]), "example is list"),  # type: ignore[arg-type]
        (
            lambda: ep.sparse(prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), {"weight": torch.ones(4, 4)}),
            r"prune.remove",
        ),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        make()
