"""One network with fixed survivors on the kernels, for autograd and for inference: a population of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from evoprune.engines.sparse.batches import gather, make_room
from evoprune.engines.sparse.fused import NO_UPDATE
from evoprune.engines.sparse.individual import lay_out
from evoprune.engines.sparse.kernels import codes
from evoprune.engines.sparse.support import DTYPES, machine
from evoprune.engines.sparse.trace import TRIAL, block_of, trace
from evoprune.errors import InputError

# The kernels compute no loss here.
_LOSS = codes.Loss(codes.GIVEN, np.ones(1), 0.0)
# Examples for which a network is traced; its blocks are chosen anew for each batch.
_BATCH = 64


@dataclass(frozen=True)
class State:
    """The numbers of a network at one time, as the kernels take them.

    Attributes:
        vector: The parameters one after another; of a pruned weight the survivors.
        buffers: Running means and variances, module by module.
        counts: The counters of batch normalisation.
    """

    vector: Tensor
    buffers: NDArray[Any]
    counts: NDArray[np.int64]


class Plan:
    """A network with fixed survivors, for inputs of one shape.

    Args:
        skeleton: The dense network, on the device ``meta``: its weights have shapes, and no numbers.
        shape: Shape of one input.
        indices: The flat indices of the survivors of each pruned weight, ascending, by name.
        wants_input: The gradient of the inputs is wanted, too.

    Attributes:
        parameters: The names of the dense network's parameters, in the order in which their numbers lie.
        norms: The names of the modules with running statistics.

    Raises:
        InputError: The kernels cannot serve the network, or cannot be compiled here.
    """

    def __init__(
        self, skeleton: nn.Module, shape: Sequence[int], indices: Mapping[str, NDArray[np.int64]], wants_input: bool = False
    ) -> None:
        self.machine = machine()
        parameters = dict(skeleton.named_parameters())
        kind = next((p.dtype for p in parameters.values()), torch.get_default_dtype())
        self._dtype = DTYPES[kind]
        self._width = 64 // self._dtype.itemsize
        example = torch.empty((TRIAL, *shape), dtype=kind, device="meta")
        self.network = trace(skeleton, example, _BATCH, wants_input)
        shapes = {name: p.shape for name, p in parameters.items()}
        self._starts, self._columns, self._pointers = lay_out(self.network, shapes, indices)
        self._skeleton, self._shape = skeleton, tuple(shape)
        self.parameters = tuple(parameters)
        self.norms = tuple(name for name, _ in self.network.norms)
        self._programs: dict[int, codes.Program] = {}
        self._rooms: dict[tuple[int, int], list[codes.Room]] = {}
        self._nothing = np.zeros(0, self._dtype)
        self._no_noise = np.zeros((0, 0), self._dtype)
        self._whole = any(module.running_mean is None for module in self.network.batch_norms)
        # the columns of `codes.VALUES` and the following: the addresses that change are set before each call
        arrays = (self._columns, self._starts, self._pointers)
        self._people = np.array([[0, 0, 0, 0, *(array.ctypes.data for array in arrays), 0, 0, len(self._columns)]], np.int64)

    def evaluate(self, x: Tensor, state: State) -> Tensor:
        """Returns the outputs [n, ...] in evaluation mode; a block of examples at a time, so that it stays in the cache."""
        return self._forward(codes.FORWARD if self._whole else codes.EVALUATE, x, state, False)[0]

    def forward(self, x: Tensor, state: State, training: bool) -> tuple[Tensor, Pass]:
        """Returns the outputs [n, ...], and the forward pass that :meth:`backward` continues from."""
        return self._forward(codes.FORWARD, x, state, training)

    def backward(self, one: Pass, slope: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the gradients of the vector, and of the inputs if they are wanted."""
        n, slopes = int(one.data.sizes[0]), one.room.slopes
        given = np.ascontiguousarray(slope.numpy()).reshape(1, n, -1)
        of_inputs = None
        if one.program.in_shift >= 0:
            of_inputs = torch.empty((n, *self._shape), dtype=slope.dtype)
        slopes[:] = 0
        self._call(codes.BACKWARD, one, given, None if of_inputs is None else of_inputs.numpy().reshape(-1))
        return torch.from_numpy(slopes[: len(self._columns)].copy()), of_inputs

    def release(self, one: Pass) -> None:
        """Takes the room of a pass back for the next one; rooms for other numbers of examples make way."""
        if len(self._rooms) > 4:
            self._rooms = {one.key: self._rooms.get(one.key, [])}
        self._rooms.setdefault(one.key, []).append(one.room)

    def _forward(self, mode: int, x: Tensor, state: State, training: bool) -> tuple[Tensor, Pass]:
        n, program = len(x), self._program(len(x))
        free = self._rooms.get((n, mode))
        room = free.pop() if free else self._new_room(program, n, mode)
        data = self._noisy_data(x) if training and self.network.noises else self._data(x, program)
        outputs = np.empty((1, n, len(program.outputs)), self._dtype)
        one = Pass(self, (n, mode), program, room, data, state, training)
        self._call(mode, one, outputs)
        return torch.from_numpy(outputs).view(n, *self.network.outputs), one

    def _call(self, mode: int, one: Pass, outputs: NDArray[Any], slopes: NDArray[Any] | None = None) -> None:
        """Calls the kernels; see :func:`evoprune.engines.sparse.kernels.steps.run`."""
        state = one.state
        people = self._people.copy()
        people[0, codes.VALUES] = state.vector.data_ptr()
        people[0, codes.BUFFERS] = state.buffers.__array_interface__["data"][0]
        people[0, codes.COUNTS] = state.counts.__array_interface__["data"][0]
        self.machine.call(
            self._dtype, mode, one.program, people, one.room, one.data, _LOSS, NO_UPDATE, _LOSS.weights, 0, False, outputs,
            np.zeros(1), self._nothing if slopes is None else slopes, one.training,
        )  # fmt: skip

    def _program(self, n: int) -> codes.Program:
        """Returns the program with blocks that suit so many examples."""
        found = self._programs.get(n)
        if found is None:
            block = block_of(self._skeleton, n, self._width)
            counting = np.arange(max(len(self.network.program.counting), n))
            found = self._programs[n] = self.network.program._replace(batch=block, counting=counting)
        return found

    def _data(self, x: Tensor, program: codes.Program) -> codes.Data:
        n = len(x)
        return codes.Data(
            x.detach().numpy().reshape(-1), self._nothing, program.counting[:0], self._no_noise, program.counting[None, :n],
            np.array([n]),
        )  # fmt: skip

    def _noisy_data(self, x: Tensor) -> codes.Data:
        return gather(self.network, x, [torch.arange(len(x))], None, codes.GIVEN, True)

    def _new_room(self, program: codes.Program, n: int, mode: int) -> codes.Room:
        blocks = -(-n // program.batch)
        sized: Any = _Sized(program, program, self.network.saved)
        return make_room(sized, 1 if mode == codes.EVALUATE else blocks, blocks, len(self._columns), self._dtype)


@dataclass(frozen=True)
class _Sized:
    """The sizes of a network, for :func:`make_room`."""

    program: codes.Program
    unshared: codes.Program
    saved: int


@dataclass(frozen=True)
class Pass:
    """A forward pass, whose values stay in its room until it is forgotten.

    Attributes:
        plan: The plan that lends the room.
        key: Number of examples, and mode: passes that agree in both can use the same room.
    """

    plan: Plan
    key: tuple[int, int]
    program: codes.Program
    room: codes.Room
    data: codes.Data
    state: State
    training: bool

    def __del__(self) -> None:
        self.plan.release(self)


class _Run(torch.autograd.Function):
    """The outputs of a plan as a function of inputs and parameters."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, state: State, training: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        """Returns the outputs [n, ...]."""
        outputs, ctx.one = plan.forward(x, state, training)
        ctx.save_for_backward(x, *parameters)  # torch then refuses to go back if they have changed in place
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of inputs and parameters."""
        _, *parameters = ctx.saved_tensors
        gradient, of_x = ctx.one.plan.backward(ctx.one, slope)
        parts = gradient.split([p.numel() for p in parameters])
        wanted = ctx.needs_input_grad[4:]
        found = [g.view(p.shape) if w else None for g, p, w in zip(parts, parameters, wanted, strict=True)]
        return None, None, None, of_x, *found


def run(plan: Plan, x: Tensor, parameters: Sequence[Tensor], norms: Sequence[nn.Module], training: bool) -> Tensor:
    """Returns the outputs [n, ...] of a network, which autograd differentiates.

    Args:
        plan: The plan, made for the gradient of the inputs if they require one.
        x: Inputs [n, ...], n at least 1, of the type of the parameters.
        parameters: The parameters in the order of the plan's names; of a pruned weight its survivors [m].
        norms: The modules with running statistics, in the order of the plan's names; they move in training.
        training: Batches are normalised by their moments, and dropout draws.

    Raises:
        InputError: Inputs, parameters and statistics are of different types.
    """
    x = x.contiguous()
    vector = torch.cat([p.detach().reshape(-1) for p in parameters])
    state = State(vector, *_read_statistics(norms, vector))
    if not vector.dtype == torch.from_numpy(state.buffers).dtype == x.dtype:
        raise InputError(f"inputs are {x.dtype}, and parameters or running statistics are not; expected one type for all.")
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in parameters)):
        outputs: Tensor = _Run.apply(plan, state, training, x, *parameters)  # type: ignore[no-untyped-call]
    elif training:
        outputs, _ = plan.forward(x.detach(), state, training)
    else:
        return plan.evaluate(x.detach(), state)
    if training and norms:
        _write_statistics(norms, state)
    return outputs


_NO_COUNTS = np.zeros(0, np.int64)


def _read_statistics(norms: Sequence[Any], like: Tensor) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Returns running means and variances, and the counters."""
    if not norms:
        return like[:0].numpy(), _NO_COUNTS
    values = torch.cat([each for norm in norms for each in (norm.running_mean, norm.running_var)])
    return values.numpy(), np.array([int(norm.num_batches_tracked) for norm in norms], np.int64)


def _write_statistics(norms: Sequence[Any], state: State) -> None:
    """Sets running means and variances, and the counters."""
    buffers, start = torch.from_numpy(state.buffers), 0
    for norm, count in zip(norms, state.counts.tolist(), strict=True):
        for each in (norm.running_mean, norm.running_var):
            each.copy_(buffers[start : start + len(each)])
            start += len(each)
        norm.num_batches_tracked.fill_(count)
