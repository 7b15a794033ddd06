"""The formats of export: each makes files of a trained network, which plain torch reads."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evoprune.errors import InputError
from evoprune.export.onnx_file import onnx_file
from evoprune.export.small import small_file
from evoprune.export.sparse import sparse
from evoprune.export.trained import Trained, removed_zero
from evoprune.runs.tensors import pack_tensors


@dataclass(frozen=True)
class Files:
    """Files of one format.

    Attributes:
        contents: Their contents by name.
        facts: Findings about them, such as a measured speed, by name.
    """

    contents: Mapping[str, bytes]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        make: Returns the files of a trained network.
        summary: A description of the files, for the command line's help.
    """

    make: Callable[[Trained], Files]
    summary: str


def saved(content: Mapping[str, Tensor]) -> bytes:
    """Returns tensors as ``torch.save`` writes them, which ``torch.load`` reads with ``weights_only=True``."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def plain(source: Trained) -> Files:
    """Returns ``model.pt``, the ``state_dict`` with zeros where weights were removed."""
    return Files({"model.pt": saved(removed_zero(source))})


def pruned(source: Trained) -> Files:
    """Returns ``pruned.pt``, the ``state_dict`` of a module under ``torch.nn.utils.prune``: ``NAME_orig`` and ``NAME_mask``."""
    state, layers = removed_zero(source), source.mask.layers
    content: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in layers:
            content |= {f"{name}_orig": tensor, f"{name}_mask": torch.from_numpy(layers[name]).to(tensor.dtype)}
        else:
            content[name] = tensor
    return Files({"pruned.pt": saved(content)})


def safetensors(source: Trained) -> Files:
    """Returns ``model.safetensors``, ``masks.safetensors`` (uint8, 1 where a weight survives) and ``w0.safetensors``."""
    about = {"evoprune": json.dumps({**source.facts, "mask": source.mask.hash})}  # one entry: safetensors shuffles several
    masks = {name: torch.from_numpy(layer).to(torch.uint8) for name, layer in source.mask.layers.items()}
    contents = {
        "model.safetensors": pack_tensors(removed_zero(source), about),
        "masks.safetensors": pack_tensors(masks, about),
    }
    try:
        return Files({**contents, "w0.safetensors": pack_tensors(source.w0(), about)})
    except InputError as error:
        if source.means.problem is not None:
            raise
        return Files(contents, {"left out": f"w0.safetensors, for {error}"})


def csr(source: Trained) -> Files:
    """Returns ``csr.pt``, the ``state_dict`` with masked matrices in torch's CSR layout, all survivors in it; others dense."""
    state, layers = removed_zero(source), source.mask.layers
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        rows = {name: _compressed(state[name], torch.from_numpy(bits)) for name, bits in layers.items() if bits.ndim == 2}
    return Files({"csr.pt": saved({**state, **rows})}, {"matrices": f"{len(rows)} of {len(state)} tensors"})


def _compressed(weight: Tensor, survives: Tensor) -> Tensor:
    """Returns a matrix in CSR layout, with all survivors, also those that are zero."""
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), survives.sum(1).cumsum(0)])
    return torch.sparse_csr_tensor(
        starts, survives.nonzero()[:, 1], weight[survives], tuple(weight.shape), check_invariants=True
    )


def onnx(source: Trained) -> Files:
    """Returns ``model.onnx``, of any number of examples, checked by onnxruntime."""
    content, difference = onnx_file(source.network(), source.inputs(5))
    return Files({"model.onnx": content}, {"largest difference to torch": difference})


def shrunk(source: Trained) -> Files:
    """Returns ``shrunk.pt2``, a smaller dense network that ``torch.export.load`` reads, with its measured speed."""
    content, facts = small_file(source.network(), source.inputs(64))
    return Files({"shrunk.pt2": content}, facts)


def survivors_alone(source: Trained) -> Files:
    """Returns ``sparse.pt``, the ``state_dict`` of ``ep.sparse``: ``NAME.values`` and ``NAME.positions``, flat, ascending."""
    network = sparse(source.network(), source.mask)
    return Files({"sparse.pt": saved(network.state_dict())}, {"to load": "ep.sparse(model, mask).load_state_dict"})


# Another format is a function and a line here.
EXPORTS: dict[str, Format] = {
    "torch": Format(plain, "model.pt: a plain state_dict, zeros where weights were removed"),
    "prune": Format(pruned, "pruned.pt: the state_dict of a module under torch.nn.utils.prune"),
    "safetensors": Format(safetensors, "model, masks (uint8) and initial weights as safetensors"),
    "csr": Format(csr, "csr.pt: the state_dict with masked matrices in torch's CSR layout"),
    "sparse": Format(survivors_alone, "sparse.pt: the state_dict of ep.sparse, values and positions of survivors"),
    "onnx": Format(onnx, "model.onnx, checked by onnxruntime (an optional extra)"),
    "shrink": Format(shrunk, "shrunk.pt2: a smaller dense network with the same outputs, and its measured speed"),
}
