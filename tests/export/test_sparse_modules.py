"""Whole sparse networks against the dense ones."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import evoprune as ep
from evoprune.export import sparse as sparse_module
from evoprune.export.network import SparseNetwork
from evoprune.problem.models import build

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


class Residual(nn.Module):
    """Convolutions, batch normalisation, an addition of the input, pooling and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.drop = nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.Dropout(0.3)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)) + x)
        return self.last(self.drop(self.second(x)).mean((2, 3)))


class Gated(nn.Module):
    """A product of two layers, which the kernels do not know."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * torch.sigmoid(self.b(x))


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "perceptron": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 3)), (4, 5)),
    "one layer": (lambda: nn.Linear(5, 3), (5,)),
    "lenet-5": (lambda: build("lenet-5", (1, 16, 16), 10, (4,)), (1, 16, 16)),
    "resnet-8": (lambda: build("resnet-8", (3, 8, 8), 4, (4,)), (3, 8, 8)),
    "residual": (Residual, (4, 6, 6)),
    "gated": (Gated, (5,)),
}


def masked(network: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """Returns a network with some weights of zero, in double precision, and the masks."""
    torch.manual_seed(0)
    network = network.double()
    weights = {name: p for name, p in network.named_parameters() if p.ndim > 1}
    masks = {name: torch.rand(p.shape) < 0.5 for name, p in weights.items()}
    with torch.no_grad():
        for name, p in weights.items():
            p.mul_(masks[name])
    return network, masks


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_outputs_gradients_and_statistics_equal_the_dense_networks(name: str, training: bool) -> None:
    make, shape = NETWORKS[name]
    dense, masks = masked(make())
    sparse = ep.sparse(dense, masks).train(training)
    dense.train(training)
    for n in (7, 20):
        x = torch.randn(n, *shape, dtype=torch.float64)
        assert isinstance(sparse, SparseNetwork)
        assert sparse.reason(x) == ("" if name != "gated" else sparse.reason(x)) and (name != "gated" or sparse.reason(x))
        found = []
        for network in (sparse, dense):
            inputs = x.clone().requires_grad_()
            network.zero_grad()
            torch.manual_seed(n)
            outputs = network(inputs)
            (outputs**2).sum().backward()
            found.append((outputs.detach(), inputs.grad))
        torch.testing.assert_close(found[0], found[1], **CLOSE)
        for path, module in dense.named_modules():
            mine: Any = sparse.network.get_submodule(path)
            for leaf, p in module.named_parameters(recurse=False):
                full = f"{path}.{leaf}".strip(".")
                if full in masks:
                    torch.testing.assert_close(mine.values.grad, p.grad.reshape(-1)[mine.positions], **CLOSE)
                else:
                    torch.testing.assert_close(mine.get_parameter(leaf).grad, p.grad, **CLOSE)
            for leaf, buffer in module.named_buffers(recurse=False):
                torch.testing.assert_close(mine.get_buffer(leaf), buffer, **CLOSE)
        with torch.no_grad():
            torch.manual_seed(n)
            mine_out = sparse(x)
            torch.manual_seed(n)
            torch.testing.assert_close(mine_out, dense(x), **CLOSE)


def test_training_with_momentum_and_decay_equals_masked_training() -> None:
    dense, masks = masked(NETWORKS["lenet-5"][0]())
    sparse = ep.sparse(dense, masks)
    x, y = torch.randn(40, 1, 16, 16, dtype=torch.float64), torch.randint(0, 10, (40,))
    for network in (dense, sparse):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        for rows in torch.arange(40).split(15):
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            for name, mask in masks.items() if network is dense else ():
                network.get_parameter(name).grad.mul_(mask)
            optimizer.step()
    back = sparse.to_dense().state_dict()
    torch.testing.assert_close(back, dense.state_dict(), **CLOSE)


def test_masked_weights_of_other_layers_stay_dense_and_masked() -> None:
    dense, masks = masked(nn.Sequential(nn.Conv1d(3, 4, 2), nn.Flatten(), nn.Linear(8, 2)))
    sparse: Any = ep.sparse(dense, masks)
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    assert "masked weight" in sparse.reason(x)
    assert type(sparse.network[0]) is nn.Conv1d and type(sparse.network[2]) is ep.SparseLinear
    optimizer = torch.optim.Adam(sparse.parameters())
    for _ in range(2):
        sparse(x).square().sum().backward()
        optimizer.step()
    assert torch.equal(sparse.network[0].weight == 0, ~masks["0.weight"])
    torch.testing.assert_close(sparse(x), sparse.to_dense()(x), **CLOSE)
    torch.testing.assert_close(pickle.loads(pickle.dumps(sparse))(x), sparse(x), **CLOSE)


def test_layers_that_share_a_weight_share_its_survivors() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    dense, masks = masked(network)
    sparse: Any = ep.sparse(dense, masks)
    assert sparse.network[0].values is sparse.network[2].values
    x = torch.randn(3, 4, dtype=torch.float64)
    sparse(x).sum().backward()
    dense(x).sum().backward()
    weight: Any = dense[0].weight  # type: ignore[index]
    torch.testing.assert_close(sparse.network[0].values.grad, weight.grad[masks["0.weight"]], **CLOSE)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_are_independent(how: Any) -> None:
    dense, masks = masked(Residual())
    sparse = ep.sparse(dense, masks).eval()
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    y = sparse(x)
    copied = how(sparse)
    assert torch.equal(copied(x), y)
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    assert torch.equal(sparse(x), y) and not copied(x).any()
    copied.load_state_dict(sparse.state_dict())
    assert torch.equal(copied(x), y)


def test_exchanged_parts_count_and_hooks_are_called() -> None:
    dense, masks = masked(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2)))
    sparse: Any = ep.sparse(dense, masks)
    x = torch.randn(3, 4, dtype=torch.float64)
    assert sparse.reason(x) == "" and sparse(x).shape == (3, 2)
    sparse.network[2] = nn.Linear(4, 5).double()
    assert sparse(x).shape == (3, 5)
    sparse.network[1].p = 1.0
    torch.testing.assert_close(sparse(x), sparse.network[2].bias.expand(3, 5))
    sparse.network[1].eval()  # in a network that is in training mode
    assert "training mode" in sparse.reason(x) and not torch.equal(sparse(x)[0], sparse.network[2].bias)
    sparse.eval()
    assert sparse.reason(x) == ""
    seen = []
    sparse.network[0].register_forward_hook(lambda *given: seen.append(given))
    sparse(x)
    assert len(seen) == 1 and sparse.reason(x) == "a module has hooks"


def test_inputs_that_the_kernels_do_not_serve() -> None:
    dense, masks = masked(NETWORKS["lenet-5"][0]())
    sparse: Any = ep.sparse(dense, masks).eval()
    dense.eval()
    assert sparse(torch.zeros(0, 1, 16, 16, dtype=torch.float64)).shape == (0, 10)
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(sparse.bfloat16()(x.bfloat16()), dense.bfloat16()(x.bfloat16()), atol=0.02, rtol=0.02)


def test_inference_mode_and_threads() -> None:
    dense, masks = masked(NETWORKS["perceptron"][0]())
    sparse = ep.sparse(dense, masks)
    batches = torch.randn(40, 8, 4, 5, dtype=torch.float64)
    with torch.inference_mode():
        sparse(batches[0])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: sparse(x).detach(), batches))
    torch.testing.assert_close(torch.stack(found), torch.stack([dense(x) for x in batches]), **CLOSE)


def test_the_result_of_a_method() -> None:
    problem = ep.Problem("mlp", "digits", recipe=ep.Recipe(epochs=1), widths=(8,))
    result = ep.k_starts(problem, k=2, sparsity=0.8, fitness_epochs=1)
    x, _ = problem.part("test")
    sparse: Any = ep.sparse(result)
    assert sum(len(p) for name, p in sparse.named_parameters() if name.endswith("values")) == result.mask.survivors
    torch.testing.assert_close(sparse(x[:]), result.model(x[:]))
    with pytest.raises(ep.InputError, match="beside a result"):
        ep.sparse(result, result.mask)


def test_without_a_mask_the_weights_that_are_not_zero_survive() -> None:
    dense, masks = masked(NETWORKS["perceptron"][0]())
    sparse: Any = ep.sparse(dense)
    assert torch.equal(sparse.network[1].mask, masks["1.weight"])
    with pytest.raises(ep.InputError, match="weights of zero"):
        ep.sparse(nn.Linear(3, 2))


@pytest.mark.parametrize("faster", ["dense", "sparse"])
def test_the_faster_network_is_returned_and_said(
    faster: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, masks = masked(NETWORKS["perceptron"][0]())
    x = torch.randn(6, 4, 5, dtype=torch.float64)
    real = sparse_module.measure_speed

    def measured(networks: Any, example: Tensor) -> dict[str, float]:
        found = real(networks, example)
        assert set(found) == {"dense", "sparse"} and all(seconds > 0 for seconds in found.values())
        return {name: 0.001 if name == faster else 0.004 for name in found}

    monkeypatch.setattr(sparse_module, "measure_speed", measured)
    found = ep.sparse(dense, masks, example=x)
    assert isinstance(found, SparseNetwork) == (faster == "sparse") and found.training
    torch.testing.assert_close(found(x), dense(x), **CLOSE)
    said = capsys.readouterr().err
    assert ("returning the dense one" if faster == "dense" else "it is 4.0 times as fast") in said


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"2.weight": np.ones((3, 9), bool)}, "expected a mask of the model's parameters"),
        ({"1.weight": np.ones((3, 9), bool)}, r"1.weight of the shape \(3, 9\), and the model \(9, 20\)"),
    ],
)
def test_masks_that_do_not_fit(mask: Any, message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        ep.sparse(NETWORKS["perceptron"][0](), mask)
