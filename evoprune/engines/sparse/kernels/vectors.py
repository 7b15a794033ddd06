"""Vectors for numba: a type of so many lanes, kept in the processor's registers.

Plain loops of numba do not keep a row of accumulators in registers. A value of this type is one LLVM vector, which LLVM lowers
to the vectors that the processor has (AVX-512, AVX2, SSE, NEON). Arithmetic is strict: additions keep their order, and only
:func:`fma` fuses.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import (
    NativeValue,
    intrinsic,
    lower_builtin,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import populate_array

I32, I64 = ir.IntType(32), ir.IntType(64)


class Lanes:
    """A number of lanes, as an argument of :func:`load` and :func:`splat`.

    Args:
        count: The number.
        version: The version of the code that is compiled for it: numba's cache tells versions apart by it.
    """

    def __init__(self, count: int, version: str = "") -> None:
        self.count, self.version = count, version


class LanesType(types.Opaque):
    """The numba type of :class:`Lanes`: number and version belong to the type."""

    def __init__(self, count: int, version: str) -> None:
        super().__init__(f"Lanes({count}, {version})")
        self.count, self.version = count, version


class Vector(types.Type):
    """The numba type of a vector of floating point numbers, or of truth values."""

    def __init__(self, dtype: Any, count: int) -> None:
        super().__init__(f"Vector({dtype}, {count})")
        self.dtype, self.count = dtype, count


@typeof_impl.register(Lanes)
def _type_of_lanes(value: Lanes, context: Any) -> LanesType:
    return LanesType(value.count, value.version)


register_model(LanesType)(models.OpaqueModel)


@unbox(LanesType)
def _unbox_lanes(kind: Any, value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        element = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.count))


def _register_operation(function: Any, name: str) -> None:
    @infer_global(function)
    class Operation(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(function, Vector, Vector)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, name)(*args)


def _register_comparison(function: Any, sign: str) -> None:
    @infer_global(function)
    class Comparison(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(Vector(types.boolean, args[0].count), *args)
            return None

    @lower_builtin(function, Vector, Vector)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fcmp_ordered(sign, *args)


for _function, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    _register_operation(_function, _name)
for _function, _sign in ((operator.gt, ">"), (operator.lt, "<"), (operator.le, "<="), (operator.eq, "==")):
    _register_comparison(_function, _sign)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _call(builder: Any, name: str, *args: Any) -> Any:
    kind = args[0].type
    suffix = f"v{kind.count}f{32 if isinstance(kind.element, ir.FloatType) else 64}"
    function = ir.FunctionType(kind, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.{suffix}"), args)


def _splat(builder: Any, scalar: Any, count: int) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, count), [0] * count))


@intrinsic
def peek(typing: Any, array: Any, index: Any) -> Any:
    """Returns an element of a one-dimensional array; the index is not negative, and not checked."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, sig.args[0], *args))

    return signature(array.dtype, array, types.int64), codegen


@intrinsic
def load(typing: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Returns the elements of a one-dimensional array from an index on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig.args[0], *args[:2])
        vector = ir.VectorType(pointer.type.pointee, sig.return_type.count)
        found = builder.load(builder.bitcast(pointer, vector.as_pointer()))
        found.align = array.dtype.bitwidth // 8
        return found

    return signature(Vector(array.dtype, lanes.count), array, types.int64, lanes), codegen


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Sets the elements of a one-dimensional array from an index on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig.args[0], *args[:2])
        builder.store(args[2], builder.bitcast(pointer, args[2].type.as_pointer())).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return signature(types.void, array, types.int64, vector), codegen


@intrinsic
def splat(typing: Any, scalar: Any, lanes: Any) -> Any:
    """Returns a vector of equal elements."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0], sig.return_type.count)

    return signature(Vector(scalar, lanes.count), scalar, lanes), codegen


@intrinsic
def like(typing: Any, scalar: Any, vector: Any) -> Any:
    """Returns a vector of equal elements with the type of another vector."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element = context.cast(builder, args[0], sig.args[0], vector.dtype)
        return _splat(builder, element, vector.count)

    return signature(vector, scalar, vector), codegen


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Returns a * b + c, rounded once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "fma", *args)

    return signature(c, a, b, c), codegen


@intrinsic
def sqrt(typing: Any, a: Any) -> Any:
    """Returns the square roots."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "sqrt", *args)

    return signature(a, a), codegen


@intrinsic
def absolute(typing: Any, a: Any) -> Any:
    """Returns the absolute values."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "fabs", *args)

    return signature(a, a), codegen


@intrinsic
def rounded(typing: Any, a: Any) -> Any:
    """Returns the nearest whole numbers, as floating point numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "rint", *args)

    return signature(a, a), codegen


@intrinsic
def where(typing: Any, test: Any, a: Any, b: Any) -> Any:
    """Returns elements of a where a vector of truth values is true, else of b."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(*args)

    return signature(a, test, a, b), codegen


@intrinsic
def but_not(typing: Any, a: Any, b: Any) -> Any:
    """Returns a and not b, of truth values."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.and_(args[0], builder.not_(args[1]))

    return signature(a, a, b), codegen


@intrinsic
def total(typing: Any, a: Any) -> Any:
    """Returns the sum of the elements, as a tree whose order is the same on every machine."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, count = args[0], a.count
        while count > 1:
            count //= 2
            undefined, kind = ir.Constant(vector.type, ir.Undefined), ir.VectorType(I32, count)
            low = builder.shuffle_vector(vector, undefined, ir.Constant(kind, list(range(count))))
            high = builder.shuffle_vector(vector, undefined, ir.Constant(kind, list(range(count, 2 * count))))
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, ir.Constant(I32, 0))

    return signature(a.dtype, a), codegen


@intrinsic
def times_power_of_two(typing: Any, a: Any, exponent: Any) -> Any:
    """Returns a * 2**exponent, for whole numbers from -126 to 127 (float32) or from -1022 to 1023 (float64)."""
    bits, bias, mantissa = (32, 127, 23) if a.dtype.bitwidth == 32 else (64, 1023, 52)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(bits), a.count)
        whole = builder.fptosi(args[1], vector)
        biased = builder.add(whole, ir.Constant(vector, [bias] * a.count))
        power = builder.bitcast(builder.shl(biased, ir.Constant(vector, [mantissa] * a.count)), args[0].type)
        return builder.fmul(args[0], power)

    return signature(a, a, exponent), codegen


@intrinsic
def exponent_limit(typing: Any, a: Any) -> Any:
    """Returns a vector of the largest number whose exponential, and its inverse, are normal numbers."""
    limit = 87.3 if a.dtype.bitwidth == 32 else 708.0

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(args[0].type, [limit] * a.count)

    return signature(a, a), codegen


def _interleaved(builder: Any, a: Any, b: Any, picks: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(picks)), picks))


@intrinsic
def totals(typing: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Returns a vector of four sums, each added in the order of :func:`total`, in fewer steps than four of them."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vectors, count = list(args), a.count
        while count > 4 or len(vectors) > 1:
            # the lower halves of all sums, and the upper ones; pairs of vectors become one where they fit
            half, paired = count // 2, []
            if vectors[0].type.count == a.count and count == a.count and a.count > 8:
                for v in vectors:
                    low, high = (_interleaved(builder, v, v, list(range(i, i + half))) for i in (0, half))
                    paired.append(builder.fadd(low, high))
            else:
                for v, w in zip(vectors[::2], vectors[1::2], strict=True):
                    n, of = v.type.count, v.type.count // count
                    lows = [s * count + i for s in range(of) for i in range(half)]
                    picks = lows + [n + i for i in lows]
                    low = _interleaved(builder, v, w, picks)
                    high = _interleaved(builder, v, w, [i + half for i in picks])
                    paired.append(builder.fadd(low, high))
            vectors, count = paired, half
        (found,) = vectors
        while count > 1:
            half, of = count // 2, found.type.count // count
            lows = [s * count + i for s in range(of) for i in range(half)]
            low, high = (_interleaved(builder, found, found, [i + at for i in lows]) for at in (0, half))
            found, count = builder.fadd(low, high), half
        return found

    return signature(Vector(a.dtype, 4), a, b, c, d), codegen


@intrinsic
def transposed(typing: Any, rows: Any) -> Any:
    """Returns the columns of eight vectors of eight elements."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found = [builder.extract_value(args[0], i) for i in range(8)]
        for half in (4, 2, 1):  # exchanges blocks of that size
            after = list(found)
            for i in range(8):
                if not i & half:
                    a, b = found[i], found[i + half]
                    after[i] = _interleaved(builder, a, b, [j if not j & half else 8 + j - half for j in range(8)])
                    after[i + half] = _interleaved(builder, a, b, [j + half if not j & half else 8 + j for j in range(8)])
            found = after
        return context.make_tuple(builder, sig.return_type, found)

    return signature(rows, rows), codegen


@intrinsic
def array_at(typing: Any, address: Any, length: Any, like: Any) -> Any:
    """Returns the array of some length at an address, of the type of another array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.return_type
        found = context.make_array(kind)(context, builder)
        size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        data = builder.inttoptr(args[0], context.get_data_type(kind.dtype).as_pointer())
        populate_array(found, data=data, shape=[args[1]], strides=[size], itemsize=size, meminfo=None)
        return found._getvalue()

    return signature(like, types.int64, types.int64, like), codegen
