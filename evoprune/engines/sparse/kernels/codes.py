"""The numbers that a program of the kernels is made of: kinds of operations, and the places of their fields.

A program is a table of whole numbers, a row an operation, with a table of floating point numbers beside it; lists of places
lie in a third. See :mod:`evoprune.engines.sparse.program`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Kinds of operations.
PRODUCT, ACTIVATION, ADDITION, NOISE, BATCH_NORM, LAYER_NORM, MAXIMUM, AVERAGE = range(8)

# Activations. The first are computed on vectors, the others number by number.
(
    IDENTITY, RECTIFIED, LEAKY, SIGMOID, TANH, SILU, ELU, HARDTANH, HARDSIGMOID, HARDSWISH, HARDSHRINK, SOFTSHRINK, SOFTSIGN,
    TANHSHRINK, GELU, GELU_TANH, SOFTPLUS, LOGSIGMOID, MISH,
) = range(19)  # fmt: skip
LAST_ON_VECTORS = SILU

# Fields of every operation: its kind; the values it reads and writes (INPUT, or 0 for one in the workspace); the list in the
# third table, and its length; whether the gradient of its input is wanted, and whether it is the first to be written.
KIND, FROM_INPUT, LIST, LENGTH, WANTED, FRESH, LOW, HIGH = range(8)
# Further fields. Of a product: rows; the first of their pointers; the bias's parameter, or -1; places between rows; ReLU.
ROWS, POINTERS, BIAS, STEP, RELU = 8, 9, 10, 11, 12
# Of an addition: whether the second term's gradient is wanted, and the first to be written; whether it comes from the input.
SECOND_WANTED, SECOND_FRESH, SECOND_INPUT = 8, 9, 10
# Of an activation: which. Of dropout: where its noise begins.
WHICH, NOISE_AT = 8, 8
# Of batch normalisation: channels; scale's and shift's parameters, or -1; first of the running statistics, or -1; its counter;
# first of the saved statistics. Of layer normalisation: features; scale and shift; groups.
CHANNELS, SCALE, SHIFT, RUNNING, COUNTER, SAVED = 8, 9, 10, 11, 13, 14
FEATURES, GROUPS = 8, 11
# Of pooling: channels; places between channels of input and output; their first places.
PLANES, X_STEP, Y_STEP, X_FIRST, Y_FIRST = 8, 9, 10, 11, 12
# From the places of an operation's input and output to those of their gradients.
X_SHIFT, Y_SHIFT, SECOND_SHIFT = 16, 17, 18
FIELDS = 19

# Fields of the table of floating point numbers.
EPS, MOMENTUM = 0, 1
NUMBERS = 2

# Losses and optimisers.
CROSS_ENTROPY, SQUARED, GIVEN = range(3)
SGD, ADAM = range(2)
# Modes; see :func:`evoprune.engines.sparse.kernels.steps.run`.
TRAIN, EVALUATE, FORWARD, BACKWARD, GRADIENTS = range(5)


class Program(NamedTuple):
    """A network as operations on places.

    Attributes:
        ops: The operations [operations, FIELDS].
        numbers: Their floating point numbers [operations, NUMBERS].
        tables: Lists of places.
        outputs: The places of the outputs.
        in_table: The place of each feature of the input.
        counting: 0, 1, 2, ..., as many as there are outputs, noise or examples.
        places: Number of places of all values; a place holds a block's examples side by side.
        slope_places: Number of places of their gradients, which share places as soon as they can.
        out_shift: From the places of the outputs to those of their gradients.
        in_shift: From the places of the input to those of its gradient; -1 if the gradient is not wanted.
        in_places: Number of places of the input.
        noise_places: Number of places of dropout's noise.
        batch: Examples of a block, a multiple of the width.
        width: Lanes of a vector.
        whole_batch: Whether the blocks of a batch depend on each other, through batch normalisation.
    """

    ops: Any
    numbers: Any
    tables: Any
    outputs: Any
    in_table: Any
    counting: Any
    places: int
    slope_places: int
    out_shift: int
    in_shift: int
    in_places: int
    noise_places: int
    batch: int
    width: int
    whole_batch: bool


class Individual(NamedTuple):
    """One individual.

    Attributes:
        values: The trained parameters, one after another; of a prunable weight the survivors.
        gradients: Their gradients, zero between steps.
        first: The optimiser's first memory of them.
        second: Its second memory; empty if it has none.
        sums: Sums of |g|; empty if they are not wanted.
        starts: Where each parameter begins.
        pointers: Where each row of each product begins.
        columns: For each weight of a product, its input's place from the run's place on.
        buffers: Running statistics.
        counts: Counters of batch normalisation.
        zero: Zero, of the type of the values.
    """

    values: Any
    gradients: Any
    first: Any
    second: Any
    sums: Any
    starts: Any
    pointers: Any
    columns: Any
    buffers: Any
    counts: Any
    zero: Any


# The columns of a table of individuals: addresses of arrays, and their common length.
VALUES, FIRST, SECOND, SUMS, COLUMNS, STARTS, ROW_POINTERS, BUFFERS, COUNTS, LENGTH_OF_VALUES = range(10)


class Room(NamedTuple):
    """Room for one batch and one thread.

    Attributes:
        values: All values, and ``gradients`` theirs.
        saved: Statistics that a forward pass saves.
        scratch: A few vectors.
        slopes: Gradients of the parameters, zero between steps.
        inputs: The batch's inputs, ``targets``, ``labels`` and dropout's ``noise``, in blocks.
        real: 1 for real examples, 0 for those that fill the last block.
        indices: An array of the type of places, and ``zero`` a number of the type of values.
    """

    values: Any
    gradients: Any
    saved: Any
    scratch: Any
    slopes: Any
    inputs: Any
    targets: Any
    labels: Any
    noise: Any
    real: Any
    indices: Any
    zero: Any


class Data(NamedTuple):
    """Examples as they are: inputs and targets, each one after another, labels, and dropout's noise of each step.

    Attributes:
        rows: The examples of each step [steps, examples].
        sizes: Their numbers.
    """

    inputs: Any
    targets: Any
    labels: Any
    noise: Any
    rows: Any
    sizes: Any


class Loss(NamedTuple):
    """A loss: its kind, the weights of the classes, and the part of a label that is spread over all classes."""

    kind: int
    weights: Any
    smoothing: float


class Optimizer(NamedTuple):
    """An optimiser's constants, and the clipping before its step.

    Attributes:
        kind: SGD or ADAM.
        a: Momentum, or the first beta.
        b: Dampening, or the second beta.
        eps: Epsilon.
        decay: Weight decay.
        flag: Nesterov's momentum, or decoupled decay.
        clip_norm: The largest norm of the gradient; infinite for any.
        clip_value: The largest absolute value of its elements; infinite for any.
        undecayed: For each parameter 1 if it does not decay; empty if all do.
    """

    kind: int
    a: float
    b: float
    eps: float
    decay: float
    flag: bool
    clip_norm: float
    clip_value: float
    undecayed: Any
