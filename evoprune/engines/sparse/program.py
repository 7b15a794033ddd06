"""A network as a program of the kernels: operations, places, and the places of its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from evoprune.engines.sparse.kernels import codes
from evoprune.engines.sparse.layout import Value, allocate, runs
from evoprune.errors import InputError


@dataclass(frozen=True)
class Product:
    """How the weight of a product is used: the place of each weight's input, counted from the position's first input.

    Attributes:
        parameter: The weight's number among the parameters.
        pointers: The first of its rows among the pointers of all products.
        columns: Place of the input for each weight of a row.
        shift: Places to add for each row, of grouped convolutions.
        positions: How often an example uses each weight.
    """

    parameter: int
    pointers: int
    columns: NDArray[np.int64]
    shift: NDArray[np.int64]
    positions: int


@dataclass(frozen=True)
class Layer:
    """A product with the values that it reads and writes, and the number of its operation, for the dense gradient."""

    module: nn.Module
    name: str
    x: Value
    y: Value
    op: int

    def shift(self, program: codes.Program) -> int:
        """Returns the way from the places of y to those of its gradient."""
        return int(program.ops[self.op, codes.Y_SHIFT])


@dataclass
class Builder:
    """Collects the operations of a network.

    Attributes:
        parameters: The number of each parameter, by the identity of its tensor.
        batch: Examples of a block.
        width: Lanes of a vector.
        wants_input: The gradient of the input is wanted.
        ops: The operations so far, each with the values that it reads and writes.
        size: Number of places of the workspace.
        in_size: Number of places of the input.
        noise_size: Number of places of dropout's noise.
        noises: Modules of dropout with the shape of their input, in the order in which they draw.
        products: The products by the number of their weight.
        buffers: The running statistics: for each module its number of channels and its name.
    """

    parameters: dict[int, int]
    names: dict[nn.Module, str]
    batch: int
    width: int
    wants_input: bool = False
    ops: list[tuple[list[int], list[float], tuple[Value, ...], Value]] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)
    size: int = 0
    in_size: int = 0
    noise_size: int = 0
    noises: list[tuple[nn.Module, tuple[int, ...]]] = field(default_factory=list)
    products: dict[int, Product] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    norms: list[nn.Module] = field(default_factory=list)
    running: int = 0
    saved: int = 0
    pointers: int = 0

    def input(self, shape: Sequence[int], halo: Sequence[int]) -> Value:
        """Returns the network's input."""
        value = allocate(shape, halo, self.in_size, from_input=True)
        self.in_size = value.high
        return replace(value, is_wanted=self.wants_input)

    def allocate(self, shape: Sequence[int], halo: Sequence[int]) -> Value:
        """Returns a new value of the workspace."""
        value = allocate(shape, halo, self.size)
        self.size = value.high
        return value

    def _list(self, listed: Sequence[int]) -> int:
        start = len(self.tables)
        self.tables += listed
        return start

    def _add(
        self, kind: int, x: Value, y: Value, at: int, length: int, more: Sequence[int], numbers: Sequence[float] = ()
    ) -> None:
        op = [kind, int(x.from_input), at, length, int(x.is_wanted), 0, x.low, x.high, *more]
        op += [0] * (codes.FIELDS - len(op))
        self.ops.append((op, [*numbers, 0.0, 0.0][: codes.NUMBERS], (x,), y))

    def units(self, x: int, y: int, count: int, step: int) -> list[int]:
        """Returns runs of neighbouring positions, which are computed together where their vectors have the same distance."""
        if step == 1 or self.batch == self.width:
            return [x, y, count, step]
        return [number for i in range(count) for number in (x + i * step, y + i, 1, 1)]

    def _parameter(self, tensor: Any) -> int:
        return -1 if tensor is None else self.parameters[id(tensor)]

    def product(
        self,
        module: Any,
        x: Value,
        y: Value,
        listed: Sequence[int],
        y_step: int,
        columns: NDArray[np.int64],
        shift: NDArray[np.int64],
    ) -> Value:
        """Adds a product with a module's weight at the listed positions: places of x and y, length of the run and step in x."""
        number = self.parameters[id(module.weight)]
        known = self.products.get(number)
        if known is None:
            known = self.products[number] = Product(number, self.pointers, columns, shift, sum(listed[2::4]))
            self.pointers += len(shift) + 1
        elif not (np.array_equal(known.columns, columns) and np.array_equal(known.shift, shift)):
            raise InputError("has a weight that is used twice, on values that lie differently in memory")
        at = self._list(listed)
        more = [len(shift), known.pointers, self._parameter(module.bias), y_step, 0]
        self._add(codes.PRODUCT, x, y, at, len(listed) // 4, more)
        self.layers.append(Layer(module, self.names[module], x, y, len(self.ops) - 1))
        return y

    def activation(self, x: Value, shape: Sequence[int], halo: Sequence[int], which: tuple[int, float, float]) -> Value:
        """Adds an elementwise function; y is written behind x."""
        y = self.allocate(shape, halo)
        if not x.is_wanted:
            y = Value(y.places, y.low, y.high, y.halo, is_wanted=False)
        listed = runs(x.places, y.places)
        self._add(codes.ACTIVATION, x, y, self._list(listed), len(listed) // 3, [which[0]], which[1:])
        return y

    def fuse_relu(self, x: Value) -> bool:
        """Lets the last operation end with ReLU, if it wrote x and can."""
        if not self.ops or self.ops[-1][3] is not x:
            return False
        op = self.ops[-1][0]
        if op[codes.KIND] not in (codes.PRODUCT, codes.BATCH_NORM, codes.ADDITION) or op[codes.RELU]:
            return False
        op[codes.RELU] = 1
        return True

    def copied(self, x: Value, halo: Sequence[int]) -> Value:
        """Adds a copy of a value, with zeros around it."""
        return self.activation(x, x.places.shape, halo, (codes.IDENTITY, 0.0, 0.0))

    def addition(self, a: Value, b: Value, shape: Sequence[int], halo: Sequence[int]) -> Value:
        """Adds two values."""
        if not a.is_wanted and b.is_wanted:
            a, b = b, a
        y = self.allocate(shape, halo)
        if not a.is_wanted:
            y = Value(y.places, y.low, y.high, y.halo, is_wanted=False)
        listed = runs(a.places, b.places, y.places)
        self._add(codes.ADDITION, a, y, self._list(listed), len(listed) // 4, [int(b.is_wanted), 0, int(b.from_input)])
        self.ops[-1] = (*self.ops[-1][:2], (a, b), y)
        return y

    def noise(self, module: nn.Module, x: Value, y: Value) -> Value:
        """Adds a product with dropout's noise."""
        if not x.is_wanted:
            y = Value(y.places, y.low, y.high, y.halo, is_wanted=False)
        listed = runs(x.places, y.places)
        self._add(codes.NOISE, x, y, self._list(listed), len(listed) // 3, [self.noise_size])
        self.noises.append((module, x.places.shape))
        self.noise_size += x.places.size
        return y

    def batch_norm(self, module: Any, x: Value, y: Value, pointers: Sequence[int], listed: Sequence[int]) -> Value:
        """Adds batch normalisation; each channel has its runs."""
        base = len(self.tables) + len(pointers)
        at = self._list([base + pointer for pointer in pointers] + list(listed))
        channels, tracked = len(x.places), module.running_mean is not None
        more = [
            channels, self._parameter(module.weight), self._parameter(module.bias), self.running if tracked else -1, 0,
            len(self.norms), self.saved,
        ]  # fmt: skip
        rate = -1.0 if module.momentum is None else module.momentum
        self._add(codes.BATCH_NORM, x, y, at, len(listed) // 3, more, (module.eps, rate))
        if tracked:
            self.norms.append(module)
            self.running += 2 * channels
        self.saved += 2 * channels
        return y

    def layer_norm(self, module: nn.LayerNorm, x: Value, y: Value, listed: Sequence[int], groups: int, features: int) -> Value:
        """Adds layer normalisation of groups of features."""
        more = [features, self._parameter(module.weight), self._parameter(module.bias), groups]
        self._add(codes.LAYER_NORM, x, y, self._list(listed), len(listed) // 2, more, (module.eps,))
        return y

    def pool(self, kind: int, x: Value, y: Value, listed: Sequence[int], count: int, planes: tuple[int, int, int]) -> Value:
        """Adds pooling; its places are counted from a channel's first."""
        if not x.is_wanted:
            y = Value(y.places, y.low, y.high, y.halo, is_wanted=False)
        self._add(kind, x, y, self._list(listed), count, [*planes, x.start, y.start])
        return y

    def program(self, inputs: Value, outputs: Value, largest_batch: int, shared: bool) -> codes.Program:
        """Returns the program.

        Args:
            inputs: The network's input.
            outputs: Its output.
            largest_batch: The most examples of a batch.
            shared: Gradients share places as soon as they can; else those of all values are kept.

        Raises:
            InputError: The network has no operation, or its output is its input.
        """
        if outputs.from_input or not self.ops:
            raise InputError("the network computes nothing that the engine 'sparse' could train. Use the engine 'module'.")
        slopes, out_shift, in_shift = self._place_gradients(inputs, outputs, shared)
        return codes.Program(
            ops=np.array([op for op, *_ in self.ops], np.int64),
            numbers=np.array([numbers for _, numbers, *_ in self.ops]),
            tables=np.array([*self.tables, 0], np.int64),
            outputs=outputs.places.reshape(-1).astype(np.int64),
            in_table=inputs.places.reshape(-1).astype(np.int64),
            counting=np.arange(max(outputs.places.size, self.noise_size, largest_batch)),
            places=self.size,
            slope_places=slopes,
            out_shift=out_shift,
            in_shift=in_shift,
            in_places=self.in_size,
            noise_places=self.noise_size,
            batch=self.batch,
            width=self.width,
            whole_batch=any(op[codes.KIND] == codes.BATCH_NORM for op, *_ in self.ops),
        )

    def _place_gradients(self, inputs: Value, outputs: Value, shared: bool) -> tuple[int, int, int]:
        """Gives the gradients of values their places, and marks the first operation that writes each.

        Returns:
            The number of places, and the shifts from the outputs and from the input to their gradients; -1 for an input whose
            gradient is not wanted.
        """
        pool = _Pool(shared)
        starts = {_key(outputs): pool.take(outputs.high - outputs.low)}
        for op, _, terms, y in reversed(self.ops):
            if _key(y) not in starts:
                starts[_key(y)] = pool.take(y.high - y.low)  # its gradient is zero: nothing reads it
            mine = starts[_key(y)]
            op[codes.Y_SHIFT] = mine - y.low
            is_free, fields = (
                True,
                ((codes.WANTED, codes.FRESH, codes.X_SHIFT), (codes.SECOND_WANTED, codes.SECOND_FRESH, codes.SECOND_SHIFT)),
            )
            for term, (wanted, fresh, shift) in zip(terms, fields, strict=False):
                if not op[wanted]:
                    continue
                op[fresh] = int(_key(term) not in starts)
                if op[fresh]:
                    in_place = shared and is_free and op[codes.KIND] in _IN_PLACE and _congruent(term, y)
                    starts[_key(term)] = mine if in_place else pool.take(term.high - term.low)
                    is_free = is_free and not in_place
                op[shift] = starts[_key(term)] - term.low
            if is_free:
                pool.give(mine, y.high - y.low)
        return pool.size, starts[_key(outputs)] - outputs.low, starts.get(_key(inputs), -1)


def _key(value: Value) -> tuple[bool, int]:
    """Returns the memory in which a value lies, and its first place there."""
    return value.from_input, value.low


# Operations that read the gradient of their output at a place, before they write that of their input there.
_IN_PLACE = (codes.ACTIVATION, codes.ADDITION, codes.NOISE, codes.BATCH_NORM)


def _congruent(x: Value, y: Value) -> bool:
    """Tells whether two values lie alike."""
    return x.high - x.low == y.high - y.low and np.array_equal(x.places.reshape(-1) - x.low, y.places.reshape(-1) - y.low)


class _Pool:
    """Places that are taken and given back.

    Args:
        shared: Places that were given back are taken again.
    """

    def __init__(self, shared: bool) -> None:
        self.size, self._shared, self._free = 0, shared, list[tuple[int, int]]()

    def take(self, count: int) -> int:
        """Returns the first of so many places."""
        fitting = [(size, start) for start, size in self._free if size >= count]
        if fitting:
            size, start = min(fitting)
            self._free.remove((start, size))
            if size > count:
                self._free.append((start + count, size - count))
            return start
        self.size += count
        return self.size - count

    def give(self, start: int, count: int) -> None:
        """Gives places back."""
        if self._shared:
            self._free.append((start, count))
