"""The trained network of a run, as it is exported: from a run folder or a result."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.errors import InputError, UnprunableWarning
from evoprune.masks.mask import Mask
from evoprune.problem.identity import differing
from evoprune.problem.problem import Problem
from evoprune.runs import records
from evoprune.runs.config import read_config
from evoprune.runs.result import Result, identity_of
from evoprune.runs.sums import require_intact
from evoprune.runs.tensors import unpack_tensors
from evoprune.system import loading
from evoprune.system.files import read_bytes, require_own

# The parts of a problem's identity that exported files depend on.
_PARTS = ("weights", "data", "network", "identity")
_FACTS = ("method", "data", "model", "seed", "sparsity", "survivors")


@dataclass(frozen=True)
class Means:
    """Things from Python with which a run can be exported that says them by name only.

    Attributes:
        problem: The problem of the run; None makes it again from ``config.json``, if all in it has a name.
        model: A module of the run's network, with any weights; None takes the problem's.
        example: A batch of inputs; None takes test examples of the problem.
        data_dir: Folder of the data; None takes the usual one.
    """

    problem: Problem | None = None
    model: nn.Module | None = None
    example: Tensor | None = None
    data_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Checks the kinds of the values."""
        kinds: dict[str, tuple[type, str]] = {
            "problem": (Problem, "an ep.Problem"), "model": (nn.Module, "a torch.nn.Module"),
            "example": (Tensor, "a tensor, a batch of inputs"),
        }  # fmt: skip
        for name, (kind, expected) in kinds.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise InputError(f"{name} is {type(value).__name__}; expected {expected}.")
        if self.example is not None and (self.example.ndim < 1 or self.example.numel() == 0):
            raise InputError(f"example has the shape {tuple(self.example.shape)}; expected a batch of at least one input.")


@dataclass(frozen=True)
class Trained:
    """A trained network with its mask.

    Attributes:
        name: The run's folder, or a name for messages.
        mask: The mask.
        state: The network's ``state_dict``, removed weights exactly zero.
        facts: Method, data, model, seed, sparsity and survivors, as in ``result.json``.
        means: Things from Python.
        identity: The identity of the run's problem, or parts of it; empty if it is not known.
        config: The content of ``config.json``; None if it comes from no folder.
        module: The trained module itself; None if it comes from a folder.
    """

    name: str
    mask: Mask
    state: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    means: Means = field(default_factory=Means)
    identity: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    module: nn.Module | None = None

    @cached_property
    def problem(self) -> Problem:
        """The problem of the run.

        Raises:
            InputError: It is not given, and cannot be made again; or it is not that of the run.
        """
        problem = self.means.problem
        if problem is None:
            problem = self._made_again()
        if self.identity:
            given = identity_of(problem) if self.config is None else problem.identify()
            before, now = ({part: each.get(part, "") for part in _PARTS} for each in (self.identity, given))
            if other := differing(before, now):
                cure = "Restore the data or the code." if self.means.problem is None else "Give the problem of the run."
                raise InputError(f"the problem is not that of {self.name}: these differ: {other}. {cure}")
        self.mask.require(problem.shapes)
        return problem

    def _made_again(self) -> Problem:
        cure = "give it from Python, ep.export.write(..., problem=...); most formats do with model= and example="
        if self.config is None:
            raise InputError(f"a result does not have its problem; {cure}.")
        try:
            with records.as_written(Path(self.name) / "config.json"), warnings.catch_warnings():
                warnings.simplefilter("ignore", UnprunableWarning)  # the run has given the warning
                described = self.config["settings"]["problem"]
                _require_loaded(described)
                return Problem.from_config(described, device="cpu", data_dir=self.means.data_dir)
        except InputError as error:
            raise InputError(
                f"the problem of {self.name} cannot be made again from its config.json, {cure}. {error}"
            ) from error

    def network(self) -> nn.Module:
        """Returns the trained module, a new one, on the CPU, in evaluation mode.

        Raises:
            InputError: There is no module, or its parameters and buffers are not those of the run.
        """
        given = self.module if self.means.model is None else self.means.model
        network = self.problem.network() if given is None else copy.deepcopy(given)
        try:
            network.load_state_dict(dict(self.state))
        except RuntimeError as error:
            raise InputError(f"the model is not that of {self.name}: {' '.join(str(error).split())}") from error
        return network.cpu().eval()

    def inputs(self, count: int) -> Tensor:
        """Returns a batch of inputs of at most so many examples.

        Raises:
            InputError: There is neither an example nor a problem.
        """
        x = self.means.example
        found: Tensor = self.problem.part("test")[0][:count] if x is None else x[:count]
        return found.cpu()

    def w0(self) -> dict[str, Tensor]:
        """Returns the initial ``state_dict``.

        Raises:
            InputError: There is no problem.
        """
        return dict(self.problem.network().state_dict())

    def test_set(self) -> dict[str, Tensor]:
        """Returns the prepared test set: ``inputs`` as the network takes them, and ``targets`` unless these are the inputs.

        Raises:
            InputError: There is no problem.
        """
        x, y = self.problem.part("test")
        return {"inputs": x[:]} if y is x else {"inputs": x[:], "targets": y[:]}


def _require_loaded(described: Any) -> None:
    """Refuses names of things in files of code, unless the user has loaded these: a stranger may have written the folder."""
    known = {each.path.name for each in loading.loaded()}
    values = described.values() if isinstance(described, Mapping) else described
    for value in values:
        if isinstance(value, (Mapping, list)):
            _require_loaded(value)
        elif isinstance(value, str) and loading.is_in_file(value) and (file := value.rpartition(":")[0]) not in known:
            raise InputError(f"It names {value!r}, which is code in a file; load the file yourself: --load {file}.")


def trained(source: str | os.PathLike[str] | Result, means: Means) -> Trained:
    """Returns the trained network of a run.

    Args:
        source: A run folder, or a result.
        means: Things from Python.

    Raises:
        InputError: The folder holds no finished run, or damaged files.
    """
    if isinstance(source, Result):
        facts = {name: source.summary.get(name) for name in _FACTS}
        return Trained("the result", source.mask, source.model.state_dict(), facts, means, source.identity, module=source.model)
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"the run is {type(source).__name__}; expected its folder, or an ep.Result.")
    folder = Path(source)
    require_own(folder)
    config, result = read_config(folder), records.read_json(folder / "result.json")
    if config is None:
        raise InputError(f"{folder} holds {no_run(folder)}.")
    if result is None:
        raise InputError(f"the run in {folder} is not finished, and has no trained network yet; run its command to the end.")
    require_intact(folder, "result.json", "mask.npz", "model.safetensors")
    mask = Mask.load(folder / "mask.npz")
    try:
        state = unpack_tensors(read_bytes(folder / "model.safetensors"))
        fits = {name: tuple(state[name].shape) for name in mask.shapes} == mask.shapes
    except (ValueError, KeyError) as error:
        raise InputError(f"cannot read {folder / 'model.safetensors'}: {error}; restore the file.") from error
    if not fits:
        raise InputError(f"mask.npz and model.safetensors in {folder} are of different networks; restore the files.")
    facts = {name: result.get(name) for name in _FACTS}
    return Trained(str(folder), mask, state, facts, means, config["identity"], config)


def no_run(folder: Path) -> str:
    """Returns the end of a message on a folder without a run: its content, and the folder that is expected.

    Args:
        folder: The folder.
    """
    if not folder.exists():
        return "no run: there is no such folder; expected that of a finished run. evoprune list shows all in the folder runs"
    if (folder / "compare.json").exists() or (folder / "cells.csv").exists():
        return f"a comparison; expected a run, such as one of the folders in {folder / 'cells'}"
    return f"no run; expected a folder with config.json, as evoprune evolve writes. evoprune list {folder} shows those below it"


def removed_zero(source: Trained) -> dict[str, Tensor]:
    """Returns the state on the CPU, in the order of the names; removed weights are zero already, and are set so again."""
    state = {name: source.state[name].detach().cpu() for name in sorted(source.state)}  # safetensors has no order
    layers = {name: torch.from_numpy(~bits) for name, bits in source.mask.layers.items()}
    return {name: tensor.masked_fill(layers[name], 0) if name in layers else tensor for name, tensor in state.items()}
