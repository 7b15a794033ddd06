"""Whole steps of training of one individual, and its forward pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evoprune.engines.sparse.kernels.codes import (
    ACTIVATION,
    ADDITION,
    AVERAGE,
    BACKWARD,
    BATCH_NORM,
    BUFFERS,
    COLUMNS,
    COUNTS,
    CROSS_ENTROPY,
    EVALUATE,
    FIRST,
    FORWARD,
    FROM_INPUT,
    GRADIENTS,
    KIND,
    LAYER_NORM,
    LENGTH_OF_VALUES,
    MAXIMUM,
    NOISE,
    PRODUCT,
    ROW_POINTERS,
    SECOND,
    SECOND_INPUT,
    SECOND_SHIFT,
    STARTS,
    SUMS,
    TRAIN,
    VALUES,
    X_SHIFT,
    Y_SHIFT,
    Individual,
)  # fmt: skip
from evoprune.engines.sparse.kernels.compiled import entry, inlined
from evoprune.engines.sparse.kernels.elementwise import (
    activation_backward,
    activation_forward,
    addition_backward,
    addition_forward,
    noise_backward,
    noise_forward,
)  # fmt: skip
from evoprune.engines.sparse.kernels.losses import cross_entropy, squared
from evoprune.engines.sparse.kernels.norms import (
    batch_norm_backward,
    batch_norm_forward,
    layer_norm_backward,
    layer_norm_forward,
)  # fmt: skip
from evoprune.engines.sparse.kernels.pools import average_backward, average_forward, maximum_backward, maximum_forward
from evoprune.engines.sparse.kernels.products import product_backward, product_forward
from evoprune.engines.sparse.kernels.staging import clear_padded, stage, unstage
from evoprune.engines.sparse.kernels.updates import clip, sum_gradients, update
from evoprune.engines.sparse.kernels.vectors import array_at


@inlined
def forward(program: Any, one: Any, room: Any, block: int, blocks: int, training: bool, unit: Any) -> None:
    """Runs the operations one after another on some blocks of the batch, each in a separate room."""
    batch, width, tables = program.batch, program.width, program.tables
    y_block, in_block, noise_block = program.places * batch, program.in_places * batch, program.noise_places * batch
    y = room.values
    for i in range(len(program.ops)):
        op = program.ops[i]
        from_input = op[FROM_INPUT]
        x = room.inputs if from_input else room.values
        x_block = in_block if from_input else y_block
        x_first = block * in_block if from_input else 0
        if op[KIND] == BATCH_NORM:
            batch_norm_forward(
                op, program.numbers[i], tables, one, room.real[block * batch :], x, x_first, x_block, y, 0, y_block, room.saved,
                blocks, batch, width, unit, training,
            )  # fmt: skip
            continue
        for b in range(blocks):
            x_base, y_base = x_first + b * x_block, b * y_block
            if op[KIND] == PRODUCT:
                product_forward(op, tables, one, x, x_base, y, y_base, batch, width, unit)
            elif op[KIND] == ACTIVATION:
                activation_forward(op, program.numbers[i], tables, x, x_base, y, y_base, batch, width, unit)
            elif op[KIND] == ADDITION:
                other = room.inputs if op[SECOND_INPUT] else room.values
                other_base = (block + b) * in_block if op[SECOND_INPUT] else y_base
                addition_forward(op, tables, x, x_base, other, other_base, y, y_base, batch, width, unit)
            elif op[KIND] == NOISE:
                noise_forward(
                    op, tables, room.noise, (block + b) * noise_block, training, x, x_base, y, y_base, batch, width, unit
                )
            elif op[KIND] == LAYER_NORM:
                layer_norm_forward(op, program.numbers[i], tables, one, x, x_base, y, y_base, batch, width, unit)
            elif op[KIND] == MAXIMUM:
                maximum_forward(op, tables, x, x_base, y, y_base, batch, width, unit)
            elif op[KIND] == AVERAGE:
                average_forward(op, tables, x, x_base, y, y_base, batch, width, unit)


@inlined
def backward(program: Any, one: Any, room: Any, block: int, blocks: int, training: bool, unit: Any, four: Any) -> None:
    """Runs the operations backwards: from the gradients of the outputs to those of the parameters."""
    batch, width, tables = program.batch, program.width, program.tables
    y_block, in_block, noise_block = program.places * batch, program.in_places * batch, program.noise_places * batch
    g_block = program.slope_places * batch
    y, dy = room.values, room.gradients
    for i in range(len(program.ops) - 1, -1, -1):
        op = program.ops[i]
        from_input = op[FROM_INPUT]
        x = room.inputs if from_input else room.values
        x_block = in_block if from_input else y_block
        x_first = block * in_block if from_input else 0
        # from an input's room, or a value's, to the gradient's
        dx_shift, dy_shift, other_shift = op[X_SHIFT] * batch - x_first, op[Y_SHIFT] * batch, op[SECOND_SHIFT] * batch
        if op[KIND] == BATCH_NORM:
            batch_norm_backward(
                op, tables, one, room.real[block * batch :], x, x_first, x_block, dy, dx_shift, dy, dy_shift, 0, y_block,
                g_block, room.saved, blocks, batch, width, unit, training,
            )  # fmt: skip
            continue
        for b in range(blocks):
            x_base, y_base = x_first + b * x_block, b * y_block
            move = b * (g_block - y_block)
            to_dx, to_dy = dx_shift + b * (g_block - x_block), dy_shift + move
            if op[KIND] == PRODUCT:
                product_backward(op, tables, one, x, x_base, dy, to_dx, y, dy, to_dy, y_base, batch, width, unit, four)
            elif op[KIND] == ACTIVATION:
                activation_backward(
                    op, program.numbers[i], tables, x, x_base, dy, to_dx, y, dy, to_dy, y_base, batch, width, unit
                )
            elif op[KIND] == ADDITION:
                other_base = (block + b) * in_block if op[SECOND_INPUT] else y_base
                to_other = other_shift + b * g_block - other_base
                addition_backward(op, tables, x_base, other_base, dy, to_dx, to_other, y, dy, to_dy, y_base, batch, width, unit)
            elif op[KIND] == NOISE:
                noise_backward(
                    op, tables, room.noise, (block + b) * noise_block, training, x_base, dy, to_dx, dy, to_dy, y_base, batch,
                    width, unit,
                )  # fmt: skip
            elif op[KIND] == LAYER_NORM:
                layer_norm_backward(
                    op, program.numbers[i], tables, one, x, x_base, dy, to_dx, dy, to_dy, y_base, batch, width, unit
                )
            elif op[KIND] == MAXIMUM:
                maximum_backward(op, tables, x, x_base, dy, to_dx, y, dy, to_dy, y_base, batch, width, unit)
            elif op[KIND] == AVERAGE:
                average_backward(op, tables, x_base, dy, to_dx, dy, to_dy, y_base, batch, width, unit)


@inlined
def _loss(program: Any, room: Any, loss: Any, n: int, block: int, slot: int, weight: float, unit: Any) -> float:
    """Returns a block's share of the batch's mean loss, and sets the gradients of its outputs."""
    batch, width = program.batch, program.width
    base, real = slot * program.places * batch, room.real[block * batch :]
    shift = slot * (program.slope_places - program.places) * batch + program.out_shift * batch
    if loss.kind == CROSS_ENTROPY:
        return cross_entropy(
            program.outputs, loss.weights, loss.smoothing, room.labels[block * batch :], weight, real, room.values,
            room.gradients, base, shift, n - block * batch, room.scratch, batch, width, unit,
        )  # fmt: skip
    count = n * len(program.outputs)
    at = block * len(program.outputs) * batch
    return squared(
        program.outputs, room.targets, at, count, real, room.values, room.gradients, base, shift, room.scratch, batch, width,
        unit,
    )  # fmt: skip


@inlined
def _weight(loss: Any, room: Any, n: int) -> float:
    """Returns the sum of the weights of a batch's labels."""
    weight = 0.0
    for i in range(n if loss.kind == CROSS_ENTROPY else 0):
        weight += loss.weights[room.labels[i]]
    return weight


@inlined
def _prepare(program: Any, room: Any, data: Any, s: int, loss: Any, eight: Any) -> None:
    """Puts a step's examples into the room."""
    n, batch, rows = data.sizes[s], program.batch, data.rows[s]
    stage(rows, n, data.inputs, program.in_table, room.inputs, 0, batch, program.in_places * batch, eight)
    if len(data.targets) > 0:
        outputs = len(program.outputs)
        stage(rows, n, data.targets, program.counting[:outputs], room.targets, 0, batch, outputs * batch, eight)
    if len(data.noise) > 0:
        stage(
            program.counting,
            n,
            data.noise[s],
            program.counting[: program.noise_places],
            room.noise,
            0,
            batch,
            program.noise_places * batch,
            eight,
        )
    for i in range(len(room.real)):
        room.real[i] = 1 if i < n else 0
    if len(data.labels) > 0:
        for i in range(n):
            room.labels[i] = data.labels[rows[i]]


@inlined
def _individual(people: Any, k: int, room: Any) -> Any:
    """Returns an individual of a table of addresses."""
    length = people[k, LENGTH_OF_VALUES]
    return Individual(
        array_at(people[k, VALUES], length, room.values),
        room.slopes[:length],
        array_at(people[k, FIRST], length, room.values),
        array_at(people[k, SECOND], length, room.values),
        array_at(people[k, SUMS], length, room.values),
        array_at(people[k, STARTS], length, room.labels),
        array_at(people[k, ROW_POINTERS], length, room.indices),
        array_at(people[k, COLUMNS], length, room.indices),
        array_at(people[k, BUFFERS], length, room.values),
        array_at(people[k, COUNTS], length, room.labels),
        room.zero,
    )


@entry
def run(
    mode: int, program: Any, people: Any, room: Any, data: Any, loss: Any, optimizer: Any, rates: Any, done: int, summed: bool,
    outputs: Any, losses: Any, slopes: Any, training: bool, unit: Any, four: Any, eight: Any,
) -> None:  # fmt: skip
    """Trains individuals for some steps, or takes them through parts of a step.

    It is one function, since numba compiles everything anew for each.

    Args:
        mode: TRAIN for whole steps. The others take the first batch alone: EVALUATE sets the outputs in evaluation mode;
            FORWARD sets them and keeps all values; BACKWARD continues from there with the gradients of the outputs; GRADIENTS
            takes one block, whose number is ``done``, forward and backward with its share of the loss.
        program: The network, as operations; see :class:`evoprune.engines.sparse.program.Program`.
        people: The individuals: a table of addresses.
        room: Room for one batch.
        data: The examples.
        loss: The loss.
        optimizer: The optimiser.
        rates: Learning rates, one a step.
        done: Steps done before.
        summed: Whether |g| is added to the sums.
        outputs: The outputs [K, examples, outputs], or their gradients.
        losses: The sums of the batches' mean losses, to which those of the steps are added.
        slopes: The gradients of the inputs [examples * features], which BACKWARD sets if the program wants them.
        training: Whether FORWARD, BACKWARD and GRADIENTS are in training mode.
        unit: The lanes of a vector.
        four: Four lanes.
        eight: Eight lanes.
    """
    for s in range(len(data.sizes)):
        _prepare(program, room, data, s, loss, eight)
        n, batch = data.sizes[s], program.batch
        blocks = (n + batch - 1) // batch
        weight = _weight(loss, room, n)
        # all blocks where they depend on each other or are wanted later, else one at a time, so that it stays in the cache
        whole = mode in (FORWARD, BACKWARD) or (mode == TRAIN and program.whole_batch)
        some = blocks if whole else 1
        first, last = (done, done + 1) if mode == GRADIENTS else (0, blocks)
        for k in range(len(people)):
            one = _individual(people, k, room)
            for b in range(first, last, some):
                if mode != BACKWARD:
                    forward(program, one, room, b, some, training, unit)
                if mode == BACKWARD:
                    given, size, base = outputs[k].reshape(-1), program.slope_places * batch, program.out_shift * batch
                    stage(np.arange(n), n, given, program.outputs, room.gradients, base, batch, size, eight)
                    clear_padded(program.outputs, n, room.gradients, base, batch, size)
                for slot in range(some):
                    if mode in (TRAIN, GRADIENTS):
                        losses[k] += _loss(program, room, loss, n, b + slot, slot, weight, unit)
                    elif mode != BACKWARD:
                        base, done_before = slot * program.places * batch, (b + slot) * batch
                        target = outputs[k].reshape(-1)
                        unstage(program.outputs, room.values, base, done_before, n, target, batch, eight)
                if mode not in (FORWARD, EVALUATE):
                    backward(program, one, room, b, some, training, unit, four)
                for slot in range(some if mode == BACKWARD and program.in_shift >= 0 else 0):
                    base = (slot * program.slope_places + program.in_shift) * batch
                    unstage(program.in_table, room.gradients, base, (b + slot) * batch, n, slopes, batch, eight)
            if mode == TRAIN:
                if summed:
                    sum_gradients(one)
                if optimizer.clip_norm < math.inf or optimizer.clip_value < math.inf:
                    clip(one, optimizer.clip_norm, optimizer.clip_value)
                if len(optimizer.undecayed) == 0:
                    update(one, 0, len(one.values), optimizer, rates[s], optimizer.decay, done + s)
                for p in range(len(optimizer.undecayed)):
                    decay = 0.0 if optimizer.undecayed[p] else optimizer.decay
                    update(one, one.starts[p], one.starts[p + 1], optimizer, rates[s], decay, done + s)
