"""Sparse layers against the dense layers of torch."""

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

import evoprune as ep

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
OF_A_NETWORK = ep.Mask.from_layers({"fc1.weight": np.ones((3, 4), bool)})


def grads_of(layer: nn.Module, x: Tensor, slope: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns outputs, and the gradients of the inputs and of the parameters."""
    inputs = x.clone().requires_grad_()
    outputs = layer(inputs)
    outputs.backward(slope)
    found = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    assert inputs.grad is not None
    return outputs.detach(), {"inputs": inputs.grad, **found}


def assert_equals_dense(layer: Any, x: Tensor) -> None:
    dense = layer.to_dense()
    torch.manual_seed(1)
    slope = torch.randn_like(dense(x))
    mine, my_grads = grads_of(layer, x, slope)
    theirs, grads = grads_of(dense, x, slope)
    torch.testing.assert_close(mine, theirs, **CLOSE)
    torch.testing.assert_close(my_grads["inputs"], grads["inputs"], **CLOSE)
    torch.testing.assert_close(my_grads["values"], grads["weight"].reshape(-1)[layer.positions], **CLOSE)
    if layer.bias is not None:
        torch.testing.assert_close(my_grads["bias"], grads["bias"], **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), theirs, **CLOSE)


@settings(deadline=None, max_examples=15)
@given(
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    leading=st.lists(st.integers(0, 5), max_size=3),
    sparsity=st.floats(0, 1),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_linear_layers_of_all_shapes(
    sizes: tuple[int, int], leading: list[int], sparsity: float, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = ep.SparseLinear(*sizes, sparsity=sparsity, bias=bias, dtype=torch.float64)
    assert len(layer.values) == round((1 - sparsity) * sizes[0] * sizes[1])
    assert_equals_dense(layer, torch.randn(*leading, sizes[0], dtype=torch.float64))


@settings(deadline=None, max_examples=15)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    padding=st.sampled_from([0, 1, (0, 2), "valid"]),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    n=st.integers(0, 20),
    sparsity=st.floats(0, 1),
)
def test_convolutions_of_all_kinds(
    kernel: tuple[int, int], stride: int, padding: Any, dilation: int, groups: int, n: int, sparsity: float
) -> None:
    torch.manual_seed(n)
    layer = ep.SparseConv2d(
        4, 6, kernel, sparsity=sparsity, stride=stride, padding=padding, dilation=dilation, groups=groups, dtype=torch.float64
    )
    assert_equals_dense(layer, torch.randn(n, 4, 7, 6, dtype=torch.float64))


def test_a_convolution_of_one_image() -> None:
    layer = ep.SparseConv2d(2, 3, 3, sparsity=0.5, padding="same", dtype=torch.float64)
    assert_equals_dense(layer, torch.randn(2, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("mask", [np.zeros((3, 4), bool), np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1]], bool)])
def test_gradcheck_also_with_rows_and_columns_without_survivors(mask: np.ndarray) -> None:
    layer = ep.SparseLinear(4, 3, mask, dtype=torch.float64)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, layer.values, layer.bias))
    convolution = ep.SparseConv2d(4, 3, 1, torch.from_numpy(mask)[:, :, None, None], dtype=torch.float64)
    images = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: convolution(x), (images, convolution.values, convolution.bias))


def test_by_hand() -> None:
    layer = ep.SparseLinear(3, 2, np.array([1, 5]), bias=False)  # one weight from input 1 to output 0, one from 2 to 1
    with torch.no_grad():
        layer.values.copy_(torch.tensor([2.0, -3.0]))
    x = torch.tensor([[1.0, 10.0, 100.0]], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[20.0, -300.0]]
    y.backward(torch.tensor([[1.0, 2.0]]))
    assert layer.values.grad is not None and layer.values.grad.tolist() == [10.0, 200.0]
    assert x.grad is not None and x.grad.tolist() == [[0.0, 2.0, -6.0]]
    assert layer.mask.tolist() == [[False, True, False], [False, False, True]]


def test_inputs_that_are_not_contiguous() -> None:
    layer = ep.SparseLinear(6, 4, sparsity=0.5, dtype=torch.float64)
    assert_equals_dense(layer, torch.randn(6, 9, dtype=torch.float64).T)
    convolution = ep.SparseConv2d(2, 4, 3, sparsity=0.5, dtype=torch.float64)
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    assert_equals_dense(convolution, x.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("frozen", ["values", "bias"])
def test_only_some_require_gradients(frozen: str) -> None:
    layer = ep.SparseLinear(6, 4, sparsity=0.5, dtype=torch.float64)
    layer.get_parameter(frozen).requires_grad_(False)
    layer(torch.randn(3, 6, dtype=torch.float64)).sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {"values", "bias"} - {frozen}
    assert not layer.to_dense().get_parameter({"values": "weight"}.get(frozen, frozen)).requires_grad


def test_two_passes_before_the_backward_pass_keep_their_values() -> None:
    layer = ep.SparseLinear(6, 4, sparsity=0.5, dtype=torch.float64)
    a, b = torch.randn(2, 3, 6, dtype=torch.float64)
    (layer(a).sum() + 2 * layer(b).sum()).backward()
    together = layer.values.grad
    layer.values.grad = None
    layer(a).sum().backward()
    (2 * layer(b).sum()).backward()
    torch.testing.assert_close(together, layer.values.grad, **CLOSE)


def test_changed_values_refuse_the_backward_pass() -> None:
    layer = ep.SparseLinear(6, 4, sparsity=0.5)
    y = layer(torch.randn(3, 6))
    with torch.no_grad():
        layer.values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dense_weight_serves_other_types(dtype: torch.dtype) -> None:
    layer = ep.SparseLinear(6, 4, sparsity=0.5).to(dtype)
    x = torch.randn(3, 6, dtype=dtype)
    torch.testing.assert_close(layer(x), layer.to_dense()(x))


def test_from_dense_and_back() -> None:
    dense = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    mask = torch.rand(dense.weight.shape) < 0.4
    layer = ep.SparseConv2d.from_dense(dense, mask)
    back = layer.to_dense()
    assert torch.equal(back.get_parameter("weight"), dense.weight * mask)
    assert torch.equal(layer.mask, mask) and torch.equal(layer.weight, dense.weight * mask)
    assert torch.equal(ep.SparseConv2d.from_dense(back).mask, mask)  # without a mask: the weights that are not zero
    assert layer.values.data_ptr() != dense.weight.data_ptr()


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "save", "state"])
def test_copies(how: str) -> None:
    torch.manual_seed(0)
    layer = ep.SparseLinear(9, 5, sparsity=0.7)
    x = torch.randn(4, 9)
    y = layer(x)
    copied: nn.Module
    if how == "pickle":
        copied = pickle.loads(pickle.dumps(layer))
    elif how == "deepcopy":
        copied = copy.deepcopy(layer)
    elif how == "save":
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        copied = torch.load(file, weights_only=False)
    else:  # of another mask, which has been used: the positions come along
        copied = ep.SparseLinear(9, 5, sparsity=0.7)
        assert not torch.equal(copied(x), y)
        copied.load_state_dict(layer.state_dict())
    assert torch.equal(copied(x), y)
    with torch.no_grad():
        copied.get_parameter("values").zero_()
    assert torch.equal(layer(x), y)


def test_wrong_positions_in_a_state() -> None:
    layer = ep.SparseLinear(9, 5, sparsity=0.7)
    layer.load_state_dict({**layer.state_dict(), "positions": layer.positions + 40})
    with pytest.raises(ep.InputError, match="ascending numbers from 0 to 44"):
        layer(torch.zeros(1, 9))


def test_representation() -> None:
    assert repr(ep.SparseLinear(10, 5, sparsity=0.9)) == (
        "SparseLinear(in_features=10, out_features=5, survivors=5 of 50 (10.0%), bias=True)"
    )
    assert "kernel_size=(3, 3), stride=(1, 1)" in repr(ep.SparseConv2d(1, 2, 3, sparsity=0.5))


def test_initial_values_count_with_the_survivors_of_their_row() -> None:
    mask = np.zeros((2, 1000), bool)
    mask[0, :4], mask[1] = True, True
    values = ep.SparseLinear(1000, 2, mask).values
    assert 0.25 < values[:4].abs().max() <= 1 / 2
    assert 0.9 / 1000**0.5 < values[4:].abs().max() <= 1 / 1000**0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ep.SparseLinear(4, 3), "neither mask nor sparsity is given; expected one of the two, such as"),
        (
            lambda: ep.SparseLinear(4, 3, np.ones((3, 4), bool), 0.5),
            "a mask is given, and sparsity is 0.5; expected one",
        ),
        (lambda: ep.SparseLinear(4, 3, OF_A_NETWORK), r"expected that of the layer: mask.layers\['fc1.weight'\]"),  # type: ignore[arg-type]
        (lambda: ep.SparseLinear(4, 3, sparsity=1.5), "sparsity is 1.5; expected a number from 0 to 1"),
        (lambda: ep.SparseLinear(4, 3, np.ones((4, 3), bool)), r"\(4, 3\); expected that of the weight, \(3, 4\)"),
        (lambda: ep.SparseLinear(4, 3, np.ones((3, 4))), "expected booleans"),
        (lambda: ep.SparseLinear(4, 3, np.array([0, 12])), "expected different ones from 0 to 11"),
        (lambda: ep.SparseLinear(4, 3, np.array([1, 1])), "expected different ones from 0 to 11"),
        (lambda: ep.SparseLinear(0, 3, sparsity=0.5), "in_features is 0"),
        (lambda: ep.SparseLinear(4, 3, sparsity=0.5, dtype=torch.complex64), "expected a floating point type"),
        (lambda: ep.SparseLinear(4, 3, sparsity=0.5)(torch.zeros(2, 5)), r"expected \[..., 4\]"),
        (lambda: ep.SparseLinear(4, 3, sparsity=0.5)(torch.zeros(2, 4, dtype=torch.complex64)), "inputs are torch.complex64"),
        (lambda: ep.SparseConv2d(4, 3, 3, sparsity=0.5)(torch.zeros(2, 3, 5, 5)), "expected .n, 4, height, width"),
        (lambda: ep.SparseConv2d(3, 4, 3, sparsity=0.5, groups=2), "do not fit each other"),
        (lambda: ep.SparseConv2d(3, 4, 3, sparsity=0.5, padding_mode="circular"), "padding_mode is 'circular'"),  # type: ignore[call-arg]
        (lambda: ep.SparseLinear.from_dense(nn.Conv2d(1, 1, 1)), "expected a plain nn.Linear"),  # type: ignore[arg-type]
        (lambda: ep.SparseConv2d.from_dense(nn.Conv2d(1, 1, 1, padding_mode="reflect")), "expected 'zeros'"),
        (
            lambda: ep.SparseLinear.from_dense(nn.utils.prune.random_unstructured(nn.Linear(4, 3), "weight", 0.5)),
            "call prune.remove first",
        ),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        make()


def test_ones_own_loop_learns_the_digits() -> None:
    torch.manual_seed(0)
    inputs, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(labels)
    network = nn.Sequential(
        ep.SparseLinear(64, 100, sparsity=0.9), nn.ReLU(), ep.SparseLinear(100, 50, sparsity=0.9), nn.ReLU(), nn.Linear(50, 10)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(10):
        for rows in torch.randperm(1400).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (network(x[1400:]).argmax(1) == y[1400:]).double().mean()
    assert accuracy > 0.88
    weight = network[0].to_dense().weight
    assert int((weight == 0).sum()) == 6400 - 640


def test_unknown_keywords_are_refused() -> None:
    for make in (
        lambda: ep.SparseLinear(4, 3, sparsity=0.5, density=0.5),
        lambda: ep.SparseConv2d(1, 2, 3, sparsity=0.5, density=0.5),
    ):  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="unexpected keyword argument 'density'"):
            make()
