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

# The kernels compute no loss here.
_LOSS = codes.Loss(codes.GIVEN, np.ones(1), 0.0)
# Examples for which a network is traced; its blocks are chosen anew for each batch.
_BATCH = 64
# Numbers of examples for which memory is kept.
MOST_SIZES = 4


class Seat:
    """The memory of one pass through a network, which the next one takes over.

    Args:
        room: Room for the values.
        sizes: Numbers of parameters, running statistics, and counters.
        layout: The arrays that say how the parameters lie; see :func:`lay_out`.

    Attributes:
        vector: The parameters one after another; of a pruned weight the survivors.
        buffers: Running means and variances, module by module.
        counts: The counters of batch normalisation.
        people: The table of individuals, with these arrays' addresses.
    """

    def __init__(self, room: codes.Room, sizes: tuple[int, int, int], layout: Sequence[NDArray[Any]]) -> None:
        self.room = room
        self._values, self.buffers = (np.zeros(size, room.values.dtype) for size in sizes[:2])
        with torch.inference_mode(False):  # they are set again outside of that mode
            self.vector, self.statistics = torch.from_numpy(self._values), torch.from_numpy(self.buffers)
        self.counts = np.zeros(sizes[2], np.int64)
        starts, columns, pointers = layout
        arrays = (columns, starts, pointers, self.buffers, self.counts)
        self.people = np.array(
            [[self._values.ctypes.data, 0, 0, 0, *(array.ctypes.data for array in arrays), len(columns)]], np.int64
        )

    def fill(self, parameters: Sequence[Tensor], norms: Sequence[Any]) -> None:
        """Takes parameters and running statistics, none of which autograd follows now."""
        torch.cat([p if p.ndim == 1 else p.reshape(-1) for p in parameters], out=self.vector)
        if norms:
            torch.cat([each for norm in norms for each in (norm.running_mean, norm.running_var)], out=self.statistics)
            self.counts[:] = [int(norm.num_batches_tracked) for norm in norms]

    def give(self, norms: Sequence[Any]) -> None:
        """Sets running statistics and counters of modules."""
        start = 0
        for norm, count in zip(norms, self.counts.tolist(), strict=True):
            for each in (norm.running_mean, norm.running_var):
                each.copy_(self.statistics[start : start + len(each)])
                start += len(each)
            norm.num_batches_tracked.fill_(count)


class Plan:
    """A network with fixed survivors, for inputs of one shape.

    Args:
        skeleton: The dense network, on the device ``meta``: its weights have shapes, and no numbers.
        shape: Shape of one input.
        indices: The flat indices of the survivors of each pruned weight, ascending, by name.
        wants_input: The gradient of the inputs is wanted, too.

    Attributes:
        dtype: The type of the parameters.
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
        self.dtype, self._nothing = kind, np.zeros(0, DTYPES[kind])
        self._width = 64 // self._nothing.itemsize
        example = torch.empty((TRIAL, *shape), dtype=kind, device="meta")
        self.network = trace(skeleton, example, _BATCH, wants_input)
        shapes = {name: p.shape for name, p in parameters.items()}
        self._layout = lay_out(self.network, shapes, indices)
        self._skeleton, self._shape = skeleton, tuple(shape)
        self.parameters = tuple(parameters)
        self.norms = tuple(name for name, _ in self.network.norms)
        self._prepared: dict[int, tuple[codes.Program, tuple[Any, ...]]] = {}
        self._seats: dict[tuple[int, int], list[Seat]] = {}
        whole = any(module.running_mean is None for module in self.network.batch_norms)
        self._mode = codes.FORWARD if whole else codes.EVALUATE  # a block at a time, unless blocks depend on each other
        self._sizes = (len(self._layout[1]), self.network.running, len(self.norms))
        self._losses = np.zeros(1)

    def serves(self, tensors: Sequence[Tensor]) -> bool:
        """Tells whether inputs, parameters and running statistics are of the type that the plan is for, on the CPU."""
        return all(each.dtype is self.dtype and each.is_cpu for each in tensors)

    def evaluate(self, x: Tensor, parameters: Sequence[Tensor], norms: Sequence[nn.Module]) -> Tensor:
        """Returns the outputs [n, ...] in evaluation mode; a block of examples at a time, so that it stays in the cache."""
        n, mode = x.shape[0], self._mode
        program, data = self._prepared.get(n) or self._prepare(n)
        free, seat = self._take(program, n, mode)
        seat.fill(parameters, norms)
        outputs = np.empty((1, n, len(program.outputs)), self._nothing.dtype)
        self._call(mode, program, seat, codes.Data(x.numpy().reshape(-1), *data), outputs, self._nothing, False)
        free.append(seat)
        return torch.from_numpy(outputs.reshape(n, *self.network.outputs))

    def forward(
        self, x: Tensor, parameters: Sequence[Tensor], norms: Sequence[nn.Module], training: bool
    ) -> tuple[Tensor, Pass]:
        """Returns the outputs [n, ...], and the forward pass that :meth:`backward` continues from."""
        n = x.shape[0]
        program, data = self._prepared.get(n) or self._prepare(n)
        free, seat = self._take(program, n, codes.FORWARD)
        if training and self.network.noises:
            given = gather(self.network, x, [torch.arange(n)], None, codes.GIVEN, True)
        else:
            given = codes.Data(x.numpy().reshape(-1), *data)
        one = Pass(free, seat, program, given, training)
        seat.fill(parameters, norms)
        outputs = np.empty((1, n, len(program.outputs)), self._nothing.dtype)
        self._call(codes.FORWARD, program, seat, given, outputs, self._nothing, training)
        if training:
            seat.give(norms)
        # not a view for torch, which would let nobody change it in place, as an activation behind a layer may
        return torch.from_numpy(outputs.reshape(n, *self.network.outputs)), one

    def backward(self, one: Pass, slope: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the gradients of the vector, and of the inputs if they are wanted."""
        slopes = one.seat.room.slopes
        of_inputs = torch.empty((one.n, *self._shape), dtype=slope.dtype) if one.program.in_shift >= 0 else None
        slopes[:] = 0
        given = np.ascontiguousarray(slope.numpy()).reshape(1, one.n, -1)
        into = self._nothing if of_inputs is None else of_inputs.numpy().reshape(-1)
        self._call(codes.BACKWARD, one.program, one.seat, one.data, given, into, one.training)
        return torch.from_numpy(slopes[: self._sizes[0]].copy()), of_inputs

    def _prepare(self, n: int) -> tuple[codes.Program, tuple[Any, ...]]:
        """Returns the program with blocks that suit so many examples, and the examples without their inputs."""
        counting = np.arange(max(len(self.network.program.counting), n))
        program = self.network.program._replace(batch=block_of(self._skeleton, n, self._width), counting=counting)
        no_noise = np.zeros((0, 0), self._nothing.dtype)
        found = program, (self._nothing, counting[:0], no_noise, counting[None, :n], np.array([n]))
        if len(self._prepared) >= MOST_SIZES:
            self._prepared = {}
        self._prepared[n] = found
        return found

    def _take(self, program: codes.Program, n: int, mode: int) -> tuple[list[Seat], Seat]:
        """Returns a seat, and the list of free ones that it goes back to; those for other sizes make way if there are many."""
        free = self._seats.get((n, mode))
        if free is None:
            free = self._seats[n, mode] = []
            if len(self._seats) > MOST_SIZES:
                self._seats = {(n, mode): free}
        try:
            return free, free.pop()
        except IndexError:  # none is free, maybe because another thread was faster
            return free, self._new_seat(program, n, mode)

    def _new_seat(self, program: codes.Program, n: int, mode: int) -> Seat:
        blocks = -(-n // program.batch)
        sized: Any = _Sized(program, program, self.network.saved)
        rooms = 1 if mode == codes.EVALUATE else blocks
        room = make_room(sized, rooms, blocks, self._sizes[0], self._nothing.dtype)
        return Seat(room, self._sizes, self._layout)

    def _call(self, mode: int, program: codes.Program, seat: Seat, data: codes.Data, *given: Any) -> None:
        """Calls the kernels with outputs, gradients of inputs, and mode of training; see their ``run``."""
        outputs, slopes, training = given
        self.machine.call(
            self._nothing.dtype, mode, program, seat.people, seat.room, data, _LOSS, NO_UPDATE, _LOSS.weights, 0, False,
            outputs, self._losses, slopes, training,
        )  # fmt: skip


@dataclass(frozen=True)
class _Sized:
    """The sizes of a network, for :func:`make_room`."""

    program: codes.Program
    unshared: codes.Program
    saved: int


class Pass:
    """A pass through a network, whose values stay at its seat until it is forgotten."""

    __slots__ = ("_free", "data", "n", "program", "seat", "training")

    def __init__(self, free: list[Seat], seat: Seat, program: codes.Program, data: codes.Data, training: bool) -> None:
        self._free, self.seat, self.program, self.data, self.training = free, seat, program, data, training
        self.n = int(data.sizes[0])

    def __del__(self) -> None:
        self._free.append(self.seat)


class _Run(torch.autograd.Function):
    """The outputs of a plan as a function of inputs and parameters."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, norms: Sequence[nn.Module], training: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        """Returns the outputs [n, ...]."""
        outputs, ctx.one = plan.forward(x.detach(), parameters, norms, training)
        ctx.plan = plan
        ctx.save_for_backward(x, *parameters)  # torch then refuses to go back if they have changed in place
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of inputs and parameters."""
        _, *parameters = ctx.saved_tensors
        gradient, of_x = ctx.plan.backward(ctx.one, slope)
        parts = gradient.split([p.numel() for p in parameters])
        wanted = ctx.needs_input_grad[4:]
        found = [g.view(p.shape) if w else None for g, p, w in zip(parts, parameters, wanted, strict=True)]
        return None, None, None, of_x, *found


def run(plan: Plan, x: Tensor, parameters: Sequence[Tensor], norms: Sequence[nn.Module], training: bool) -> Tensor:
    """Returns the outputs [n, ...] of a network, which autograd differentiates.

    All tensors are of the plan's type and on the CPU; see :meth:`Plan.serves`.

    Args:
        plan: The plan, made for the gradient of the inputs if they require one.
        x: Inputs [n, ...], n at least 1.
        parameters: The parameters in the order of the plan's names; of a pruned weight its survivors [m].
        norms: The modules with running statistics, in the order of the plan's names; they move in training.
        training: Batches are normalised by their moments, and dropout draws.
    """
    x = x.contiguous()
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in parameters)):
        outputs: Tensor = _Run.apply(plan, norms, training, x, *parameters)  # type: ignore[no-untyped-call]
        return outputs
    if training:
        return plan.forward(x.detach(), parameters, norms, True)[0]
    return plan.evaluate(x.detach(), parameters, norms)
