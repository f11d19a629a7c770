"""SIMD vectors as a numba type: 64 bytes wide (16 float32 or 8 float64), lowered to LLVM vector operations.

A kernel written with them is vectorised by construction, on any CPU LLVM knows, instead of at the mercy of the loop
vectoriser. Addresses are plain int64; offsets are bytes. Fused multiply-add is allowed everywhere.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

BYTES = 64
FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")  # of the CPU that code is compiled for
# Of a product of matrices, whose sums must stay in registers.
ROWS_AT_ONCE, PANELS_AT_ONCE = (8, 2) if "+avx512f" in FEATURES else (6, 1)
_PANEL_AHEAD = 32  # rows of a panel between the one that is multiplied and the one that is fetched


class Vector(types.Type):
    """Type of a vector of ``lanes`` scalars."""

    def __init__(self, scalar: types.Float) -> None:
        self.scalar = scalar
        self.lanes = BYTES * 8 // scalar.bitwidth
        super().__init__(name=f"{scalar}x{self.lanes}")


_VECTORS = {types.float32: Vector(types.float32), types.float64: Vector(types.float64)}


def ir_scalar(scalar: types.Float) -> ir.Type:
    return ir.FloatType() if scalar == types.float32 else ir.DoubleType()


def ir_type(vector: Vector) -> ir.VectorType:
    return ir.VectorType(ir_scalar(vector.scalar), vector.lanes)


def ir_integer(vector: Vector) -> ir.VectorType:
    return ir.VectorType(ir.IntType(vector.scalar.bitwidth), vector.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir_type(vector))


def constant(type_: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(type_, [ir.Constant(type_.element, value)] * type_.count)


def splat_value(builder: ir.IRBuilder, scalar: ir.Value, type_: ir.VectorType) -> ir.Value:
    undefined = ir.Constant(type_, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, constant(ir.VectorType(ir.IntType(32), type_.count), 0))


def _register_arithmetic(function: Callable[..., Any], instruction: str) -> None:
    """Teach numba ``vector op vector`` and ``vector op float``; the float is cast to the vector's scalar."""

    class Template(AbstractTemplate):
        key = function

        def generic(self, args: tuple, kws: dict) -> Any:
            left, right = args
            if isinstance(left, Vector) and (right == left or isinstance(right, types.Float)):
                return signature(left, left, right)
            return None

    infer_global(function)(Template)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        left, right = args
        if not isinstance(sig.args[1], Vector):
            right = splat_value(builder, context.cast(builder, right, sig.args[1], sig.args[0].scalar), left.type)
        return getattr(builder, instruction)(left, right, flags=("contract",))

    lower_builtin(function, Vector, Vector)(lower)
    lower_builtin(function, Vector, types.Float)(lower)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register_arithmetic(_function, _instruction)


def _vector_of(scalar: Any) -> Vector:
    return _VECTORS[scalar]


@intrinsic
def splat(typing_context, value, like):
    """Vector with all lanes equal to the float ``value``; ``like`` is a vector of the wanted type, or its scalar."""
    vector = like if isinstance(like, Vector) else _vector_of(like)

    def generate(context, builder, sig, args):
        return splat_value(builder, context.cast(builder, args[0], sig.args[0], vector.scalar), ir_type(vector))

    return vector(value, like), generate


@intrinsic
def _load(typing_context, address, like):
    vector = _vector_of(like)

    def generate(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], ir_type(vector).as_pointer())
        loaded = builder.load(pointer)
        loaded.align = vector.scalar.bitwidth // 8
        return loaded

    return vector(address, like), generate


@intrinsic
def _store(typing_context, address, value):
    def generate(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], args[1].type.as_pointer())
        builder.store(args[1], pointer).align = value.scalar.bitwidth // 8
        return context.get_dummy_value()

    return types.void(address, value), generate


def _lane_mask(builder: ir.IRBuilder, width: ir.Value, lanes: int) -> ir.Value:
    integers = ir.VectorType(ir.IntType(64), lanes)
    indices = ir.Constant(integers, list(range(lanes)))
    return builder.icmp_signed("<", indices, splat_value(builder, width, integers))


@intrinsic
def _load_first(typing_context, address, width, like):
    vector = _vector_of(like)

    def generate(context, builder, sig, args):
        type_ = ir_type(vector)
        pointer = builder.inttoptr(args[0], type_.as_pointer())
        mask = _lane_mask(builder, args[1], vector.lanes)
        kind = ir.FunctionType(type_, [pointer.type, ir.IntType(32), mask.type, type_])
        name = f"llvm.masked.load.v{vector.lanes}f{vector.scalar.bitwidth}.p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        align = ir.IntType(32)(vector.scalar.bitwidth // 8)
        return builder.call(function, [pointer, align, mask, constant(type_, 0.0)])

    return vector(address, types.int64, like), generate


@intrinsic
def _store_first(typing_context, address, width, value):
    def generate(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], args[2].type.as_pointer())
        mask = _lane_mask(builder, args[1], value.lanes)
        kind = ir.FunctionType(ir.VoidType(), [args[2].type, pointer.type, ir.IntType(32), mask.type])
        name = f"llvm.masked.store.v{value.lanes}f{value.scalar.bitwidth}.p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(function, [args[2], pointer, ir.IntType(32)(value.scalar.bitwidth // 8), mask])
        return context.get_dummy_value()

    return types.void(address, types.int64, value), generate


@intrinsic
def first_lanes(typing_context, value, width):
    """The first ``width`` lanes, the others zero."""

    def generate(context, builder, sig, args):
        mask = _lane_mask(builder, args[1], value.lanes)
        return builder.select(mask, args[0], constant(args[0].type, 0.0))

    return value(value, types.int64), generate


@intrinsic
def load_scalar(typing_context, address, like):
    """The float at ``address``, of the type of ``like``."""

    def generate(context, builder, sig, args):
        return builder.load(builder.inttoptr(args[0], ir_scalar(like).as_pointer()))

    return like(address, like), generate


def _prefetch(builder: ir.IRBuilder, pointer: ir.Value, level: int) -> None:
    """Fetch a cache line to read it, into the cache of the level."""
    integer, pointer = ir.IntType(32), builder.bitcast(pointer, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, integer, integer, integer])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, integer(0), integer(4 - level), integer(1)])


@intrinsic
def prefetch(typing_context, address):
    """Ask for the cache line at ``address``, which need not be mapped, in the second-level cache."""

    def generate(context, builder, sig, args):
        _prefetch(builder, builder.inttoptr(args[0], ir.IntType(8).as_pointer()), level=2)
        return context.get_dummy_value()

    return types.void(address), generate


@intrinsic
def store_scalar(typing_context, address, value):
    """Write the float ``value`` to ``address``."""

    def generate(context, builder, sig, args):
        builder.store(args[1], builder.inttoptr(args[0], args[1].type.as_pointer()))
        return context.get_dummy_value()

    return types.void(address, value), generate


@intrinsic
def total(typing_context, value):
    """Sum of all lanes, added as a tree."""

    def generate(context, builder, sig, args):
        scalar = ir_scalar(value.scalar)
        kind = ir.FunctionType(scalar, [scalar, args[0].type])
        name = f"llvm.vector.reduce.fadd.v{value.lanes}f{value.scalar.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [ir.Constant(scalar, -0.0), args[0]], fastmath=("reassoc",))

    return value.scalar(value), generate


def multiply_add(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, addend: ir.Value) -> ir.Value:
    """left * right + addend, in one instruction where there is one."""
    type_ = left.type
    name = f"llvm.fmuladd.v{type_.count}{'f32' if type_.element == ir.FloatType() else 'f64'}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(type_, [type_] * 3), name)
    return builder.call(function, [left, right, addend])


@intrinsic(prefer_literal=True)
def multiply_rows(typing_context, rows, stride, last, panels, count, out, out_stride, side_by_side, like):
    """Products of `ROWS_AT_ONCE` rows of ``count`` floats with one panel or two, into rows of vectors.

    A panel is (count, lanes) in memory, and another follows it; ``side_by_side``, a literal, is how many are taken.
    Rows beyond row ``last`` are row ``last`` again. All else are addresses and strides in bytes.
    """
    vector = _vector_of(like)

    def generate(context, builder, sig, args):
        rows, stride, last, panels, count, out, out_stride, *_ = args
        type_, integer = ir_type(vector), ir.IntType(64)
        ways = range(sig.args[7].literal_value)

        def pointers(address: ir.Value, stride: ir.Value, kind: ir.Type) -> list[ir.Value]:
            numbers = [integer(row) for row in range(ROWS_AT_ONCE)]
            numbers = [builder.select(builder.icmp_signed("<", row, last), row, last) for row in numbers]
            addresses = [builder.add(address, builder.mul(row, stride)) for row in numbers]
            return [builder.inttoptr(address, kind.as_pointer()) for address in addresses]

        inputs, outputs = pointers(rows, stride, type_.element), pointers(out, out_stride, type_)
        panel = builder.inttoptr(panels, type_.as_pointer())
        starts = [builder.gep(panel, [builder.mul(count, integer(way))]) for way in ways]
        sums = [[cgutils.alloca_once_value(builder, constant(type_, 0.0)) for _ in ways] for _ in inputs]
        with cgutils.for_range(builder, count) as loop:
            ahead = builder.add(loop.index, integer(_PANEL_AHEAD))
            for start in starts:
                _prefetch(builder, builder.gep(start, [ahead]), level=1)
            weights = [builder.load(builder.gep(start, [loop.index])) for start in starts]
            for weight in weights:
                weight.align = vector.scalar.bitwidth // 8
            for pointer, row_sums in zip(inputs, sums, strict=True):
                value = splat_value(builder, builder.load(builder.gep(pointer, [loop.index])), type_)
                for weight, place in zip(weights, row_sums, strict=True):
                    builder.store(multiply_add(builder, value, weight, builder.load(place)), place)
        for pointer, row_sums in zip(outputs, sums, strict=True):
            for way, place in zip(ways, row_sums, strict=True):
                stored = builder.store(builder.load(place), builder.gep(pointer, [integer(way)]))
                stored.align = vector.scalar.bitwidth // 8
        return context.get_dummy_value()

    return types.void(rows, stride, last, panels, count, out, out_stride, side_by_side, like), generate


@intrinsic
def lowest_exponent(typing_context, like):
    """Exponent of the smallest normal power of two, a float; ``like`` is a vector, or its scalar."""
    scalar = like.scalar if isinstance(like, Vector) else like

    def generate(context, builder, sig, args):
        return ir_scalar(scalar)(-126.0 if scalar == types.float32 else -1022.0)

    return scalar(like), generate


@intrinsic
def minimum(typing_context, left, right):
    """The smaller of each two lanes; ``left`` where either is NaN."""

    def generate(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("<", args[1], args[0]), args[1], args[0])

    return left(left, right), generate


@intrinsic
def all_at_least(typing_context, value, bound):
    """Whether no lane is below the float ``bound``, nor NaN."""

    def generate(context, builder, sig, args):
        limit = splat_value(builder, context.cast(builder, args[1], bound, value.scalar), args[0].type)
        mask = ir.IntType(value.lanes)
        reached = builder.bitcast(builder.fcmp_ordered(">=", args[0], limit), mask)
        return builder.icmp_unsigned("==", reached, mask(2**value.lanes - 1))

    return types.boolean(value, bound), generate


@intrinsic
def clamp(typing_context, value, low, high):
    """Each lane at least ``low`` and at most ``high``, two floats; NaN stays NaN."""

    def generate(context, builder, sig, args):
        x, *bounds = args
        for bound, kind, comparison in zip(bounds, sig.args[1:], ("<", ">"), strict=True):
            limit = splat_value(builder, context.cast(builder, bound, kind, value.scalar), x.type)
            x = builder.select(builder.fcmp_ordered(comparison, x, limit), limit, x)
        return x

    return value(value, low, high), generate


@intrinsic
def lane_count(typing_context, like):
    """Number of lanes of a vector, or of the vector that a float belongs to; a compile-time constant."""
    lanes = (like if isinstance(like, Vector) else _vector_of(like)).lanes

    def generate(context, builder, sig, args):
        return ir.IntType(64)(lanes)

    return types.int64(like), generate


@njit(forceinline=True)
def load(address, width, like):
    """The first ``width`` lanes from memory, the others zero; ``like`` is a float of the scalar type."""
    if width == lane_count(like):
        return _load(address, like)
    return _load_first(address, width, like)


@njit(forceinline=True)
def store(address, width, value):
    """Write the first ``width`` lanes to memory."""
    if width == lane_count(value):
        _store(address, value)
    else:
        _store_first(address, width, value)
