"""Inference and training of one sparse network: `ep.sparse` against the dense network, CSR matrices of torch, and onnxruntime.

All candidates of a network and batch size, at all sparsities, take turns within each repeat, on one thread. A turn is a block
of calls one after another, as in a loop over batches; with `--block 0` it is one call, and the caches hold the data of the
candidate before it. The medians of the processor's time count, in which waiting for other programs has no part. Weights and
inputs are invented, since the speed does not depend on them. CSR serves linear layers alone, and onnxruntime, which runs the
dense network, is left out if not installed.
"""

from evoprune.cli.forms import parse
from evoprune.cli.guard import guard
from evoprune.system import signals

if __name__ == "__main__":
    signals.end_at_once(signals.STOPPED)  # Ctrl-C while what follows is imported

import copy
import importlib
import importlib.util
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import evoprune as ep
from evoprune.export.network import SparseNetwork
from evoprune.problem.models import build

SHAPES = {"conv": (3, 32, 32), "resnet": (3, 32, 32)}
LEAST = 3
# A candidate's name, and the sparsity, 0 of a dense network.
Key: TypeAlias = tuple[str, float]


@dataclass(frozen=True)
class InferenceOptions:
    """Options of the benchmark."""

    models: tuple[str, ...] = ("lenet-300-100", "conv-4")
    """Networks by name: perceptrons on inputs of 1 x 28 x 28, convolutional networks on 3 x 32 x 32."""
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.98, 0.99)
    """Fractions of the weights removed."""
    batches: tuple[int, ...] = (1, 16, 64, 1024)
    """Examples of a forward pass."""
    training_batch: int = 64
    """Examples of a training step; 0 leaves out training."""
    widths: tuple[int, ...] | None = None
    """Widths of the networks; None: each network's default."""
    layer_densities: str = "erk"
    """How survivors spread over the layers: uniform or erk."""
    repeats: int = 51
    """Measurements of each candidate, interleaved; the median counts."""
    block: float = 0.005
    """Least time of a block of calls, in seconds; 0: each block is one call."""
    seconds: float = 30.0
    """Time for one network and batch size: as many repeats as fit, but at least three."""


class Csr(nn.Module):
    """A linear layer with a CSR matrix of torch."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.matrix, self.bias = layer.weight.detach().to_sparse_csr(), layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs."""
        return torch.addmm(self.bias[:, None], self.matrix, x.T).T


@dataclass(frozen=True)
class Networks:
    """A dense network, and its sparse ones."""

    dense: nn.Module
    sparse: Mapping[float, SparseNetwork]
    shape: tuple[int, ...]


def make_networks(model: str, options: InferenceOptions) -> Networks:
    """Returns the networks of a name."""
    shape = next((shape for start, shape in SHAPES.items() if model.startswith(start)), (1, 28, 28))
    torch.manual_seed(0)
    dense = build(model, shape, 10, options.widths).eval()
    shapes = {name: tuple(p.shape) for name, p in dense.named_parameters() if p.ndim > 1}
    sparse = {}
    for sparsity in options.sparsities:
        mask = ep.random_mask(shapes, sparsity, np.random.default_rng(0), options.layer_densities)
        sparse[sparsity] = SparseNetwork(dense, {name: torch.from_numpy(layer) for name, layer in mask.layers.items()})
    return Networks(dense, sparse, shape)


def inference(networks: Networks, x: Tensor) -> dict[Key, Callable[[], Any]]:
    """Returns a function for each candidate, by its name and sparsity (0 for dense ones), that computes outputs once."""
    found: dict[Key, Callable[[], Any]] = {("dense", 0): partial(networks.dense, x)}
    for sparsity, network in networks.sparse.items():
        found["sparse", sparsity] = partial(network, x)
        csr = as_csr(network.to_dense())
        if csr is not None:
            found["csr", sparsity] = partial(csr, x)
            torch.testing.assert_close(csr(x), network(x), rtol=1e-3, atol=1e-4)
    session = as_onnx(networks.dense, x)
    if session is not None:
        (name,) = (each.name for each in session.get_inputs())
        found["onnxruntime", 0] = partial(session.run, None, {name: x.numpy()})
    return found


def as_csr(dense: nn.Module) -> nn.Module | None:
    """Returns a network with CSR matrices; None if it has other layers with weights than linear ones."""
    if not isinstance(dense, nn.Sequential) or any(isinstance(m, nn.Conv2d) for m in dense.modules()):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its CSR matrices a beta
        return nn.Sequential(*(Csr(m) if isinstance(m, nn.Linear) else m for m in copy.deepcopy(dense)))


def as_onnx(dense: nn.Module, x: Tensor) -> Any:
    """Returns a session of onnxruntime with one thread; None if it is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnxscript")):
        print("onnxruntime or onnxscript is not installed, and is left out", file=sys.stderr)
        return None
    onnxruntime = importlib.import_module("onnxruntime")

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(dense, (x,), dynamo=True, verbose=False).save(file)  # type: ignore[union-attr, arg-type]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file.getvalue(), settings, providers=["CPUExecutionProvider"])


def training(networks: Networks, x: Tensor) -> dict[Key, Callable[[], Any]]:
    """Returns a function for each candidate that takes a step of SGD with momentum."""
    y = torch.randint(0, 10, (len(x),))
    candidates: dict[Key, nn.Module] = {
        ("dense", 0.0): networks.dense,
        **{("sparse", s): network for s, network in networks.sparse.items()},
    }
    found: dict[Key, Callable[[], Any]] = {}
    for key, network in candidates.items():
        trained = copy.deepcopy(network).train()
        optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3, momentum=0.9)
        found[key] = partial(take_step, trained, optimizer, x, y)
    return found


def take_step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Trains a network for one step."""
    optimizer.zero_grad()
    loss: Any = F.cross_entropy(network(x), y)
    loss.backward()
    optimizer.step()


def measure(functions: Mapping[Key, Callable[[], Any]], options: InferenceOptions) -> dict[Key, float]:
    """Returns the medians of interleaved blocks of calls, in seconds of the processor for a call."""
    calls = {key: calls_of(function, options.block) for key, function in functions.items()}
    times: dict[Key, list[float]] = {key: [] for key in functions}
    start = time.perf_counter()
    for i in range(options.repeats):
        if i >= LEAST and time.perf_counter() - start > options.seconds:
            break
        for key, function in functions.items():
            times[key].append(seconds_of(function, calls[key]))
    return {key: statistics.median(each) for key, each in times.items()}


def calls_of(function: Callable[[], Any], block: float) -> int:
    """Returns how many calls take a number of seconds, at least one. A first call, which prepares some things, is left out."""
    function()
    calls = 1
    while calls * seconds_of(function, calls) < block:
        calls *= 2
    return calls


def seconds_of(function: Callable[[], Any], calls: int) -> float:
    """Returns the seconds of the processor for a call, of so many."""
    before = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - before) / calls


def lines(model: str, batch: int, seconds: Mapping[Key, float], names: tuple[str, ...]) -> list[str]:
    """Returns the lines of the table for a network and batch size: times of the dense network, and ratios to it."""
    found, dense = [], seconds["dense", 0]
    for sparsity in sorted({sparsity for _, sparsity in seconds} - {0}):
        ratios = (seconds.get((name, sparsity), seconds.get((name, 0))) for name in names)
        cells = ["—" if each is None else f"{dense / each:.2f}" for each in ratios]
        found.append(f"| {' | '.join([model, str(batch), f'{sparsity:.0%}', f'{dense * 1e3:.3g}', *cells])} |")
    return found


def main(options: InferenceOptions) -> None:
    """Runs the benchmark, and prints its tables."""
    torch.set_num_threads(1)
    rows, steps = [], []
    names = ("sparse", "csr", "onnxruntime")
    with tqdm(total=len(options.models) * (len(options.batches) + 1), disable=not sys.stderr.isatty()) as bar:
        for model in options.models:
            networks = make_networks(model, options)
            for batch in options.batches:
                with torch.no_grad():
                    seconds = measure(inference(networks, torch.randn(batch, *networks.shape)), options)
                rows += lines(model, batch, seconds, names)
                bar.update()
            if options.training_batch:
                x = torch.randn(options.training_batch, *networks.shape)
                steps += lines(model, len(x), measure(training(networks, x), options), ("sparse",))
            bar.update()
    print("Forward pass: milliseconds of the dense network, and how many times as fast the others are\n")
    print("| network | batch | sparsity | dense, ms | `ep.sparse` | CSR | onnxruntime, dense |")
    print("| --- | --- | --- | --- | --- | --- | --- |", *rows, sep="\n")
    if steps:
        print("\nTraining step: forward, backward, and SGD with momentum\n")
        print("| network | batch | sparsity | dense, ms | `ep.sparse` |\n| --- | --- | --- | --- | --- |", *steps, sep="\n")


if __name__ == "__main__":
    guard(lambda: main(parse(InferenceOptions, __doc__)))
