"""SIMD vectors as a numba type: 64 bytes wide (16 float32 or 8 float64), lowered to LLVM vector operations.

A kernel written with them is vectorised by construction, on any CPU LLVM knows, instead of at the mercy of the loop
vectoriser. Addresses are plain int64; offsets are bytes. Fused multiply-add is allowed everywhere.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

BYTES = 64


def _fit(function: Callable[[np.ndarray], np.ndarray], degree: int, low: float, high: float) -> list[float]:
    """Coefficients, lowest first, of the polynomial through the Chebyshev nodes of the interval."""
    chebyshev = np.polynomial.Chebyshev.interpolate(function, degree, domain=[low, high])
    return chebyshev.convert(kind=np.polynomial.Polynomial).coef.tolist()


def _atanh_ratio(square: np.ndarray) -> np.ndarray:
    root = np.sqrt(np.maximum(square, 1e-300))
    return np.where(square > 1e-12, np.arctanh(root) / root, 1.0)


def _log1p_slope(value: np.ndarray) -> np.ndarray:
    safe = np.where(value == 0, 1.0, value)
    return np.where(value == 0, 1.0, np.log1p(safe) / safe)


def _exp2_slope(exponent: np.ndarray) -> np.ndarray:
    safe = np.where(exponent == 0, 1.0, exponent)
    return np.where(exponent == 0, math.log(2), np.expm1(safe * math.log(2)) / safe)


def _exp2_of_upper_fraction(slope: list[float]) -> list[float]:
    """Coefficients in x of 2**(x - 1/2) = 1 + (x - 1/2) slope(x - 1/2); float32 arithmetic gives 1 for 2**0."""
    shifted = np.polynomial.Polynomial([-0.5, 1.0])
    coefficients = (1 + shifted * np.polynomial.Polynomial(slope)(shifted)).coef.astype(np.float32)
    above = np.float32(0)
    for coefficient in coefficients[:0:-1]:
        above = np.float32(np.float64(above) * 0.5 + np.float64(coefficient))
    coefficients[0] = 1 - np.float64(above) * 0.5
    return coefficients.tolist()


# In float32 an error of at most 2e-7, which vanishes towards zero: the slow decays there are the ones that compound.
# Taylor's series for float64, since the fit itself is computed in float64.
_EXP2_SLOPE = _fit(_exp2_slope, 4, -0.5, 0.5)
_EXP2_SINGLE = [1.0, *_EXP2_SLOPE]
_EXP2_UPPER_SINGLE = _exp2_of_upper_fraction(_EXP2_SLOPE)
_EXP2_DOUBLE = [math.log(2) ** k / math.factorial(k) for k in range(13)]
_LOG1P_SINGLE = _fit(_log1p_slope, 8, 0.0, 1.0)
_ATANH_DOUBLE = _fit(_atanh_ratio, 12, 0.0, 1.0 / 9.0)
LOG2_E = 1.4426950408889634


_features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
# Chains of vectors that a kernel writes side by side: what the registers hold, of which AVX-512 has twice as many.
WAYS = 4 if "+avx512f" in _features else 2
# Of a product of matrices, whose sums must stay in registers.
ROWS_AT_ONCE, PANELS_AT_ONCE = (8, 2) if "+avx512f" in _features else (6, 1)
_PANEL_AHEAD = 32  # rows of a panel between the one that is multiplied and the one that is fetched
# Whether one instruction takes the fraction of a float, and one scales by a power of two.
_SPLITS = "+avx512dq" in _features


class Vector(types.Type):
    """Type of a vector of ``lanes`` scalars."""

    def __init__(self, scalar: types.Float) -> None:
        self.scalar = scalar
        self.lanes = BYTES * 8 // scalar.bitwidth
        super().__init__(name=f"{scalar}x{self.lanes}")


_VECTORS = {types.float32: Vector(types.float32), types.float64: Vector(types.float64)}


def _ir_scalar(scalar: types.Float) -> ir.Type:
    return ir.FloatType() if scalar == types.float32 else ir.DoubleType()


def _ir_type(vector: Vector) -> ir.VectorType:
    return ir.VectorType(_ir_scalar(vector.scalar), vector.lanes)


def _ir_integer(vector: Vector) -> ir.VectorType:
    return ir.VectorType(ir.IntType(vector.scalar.bitwidth), vector.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _ir_type(vector))


def _constant(type_: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(type_, [ir.Constant(type_.element, value)] * type_.count)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, type_: ir.VectorType) -> ir.Value:
    undefined = ir.Constant(type_, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, _constant(ir.VectorType(ir.IntType(32), type_.count), 0))


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
            right = _splat(builder, context.cast(builder, right, sig.args[1], sig.args[0].scalar), left.type)
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
        return _splat(builder, context.cast(builder, args[0], sig.args[0], vector.scalar), _ir_type(vector))

    return vector(value, like), generate


@intrinsic
def _load(typing_context, address, like):
    vector = _vector_of(like)

    def generate(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], _ir_type(vector).as_pointer())
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
    return builder.icmp_signed("<", indices, _splat(builder, width, integers))


@intrinsic
def _load_first(typing_context, address, width, like):
    vector = _vector_of(like)

    def generate(context, builder, sig, args):
        type_ = _ir_type(vector)
        pointer = builder.inttoptr(args[0], type_.as_pointer())
        mask = _lane_mask(builder, args[1], vector.lanes)
        kind = ir.FunctionType(type_, [pointer.type, ir.IntType(32), mask.type, type_])
        name = f"llvm.masked.load.v{vector.lanes}f{vector.scalar.bitwidth}.p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        align = ir.IntType(32)(vector.scalar.bitwidth // 8)
        return builder.call(function, [pointer, align, mask, _constant(type_, 0.0)])

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
        return builder.select(mask, args[0], _constant(args[0].type, 0.0))

    return value(value, types.int64), generate


@intrinsic
def load_scalar(typing_context, address, like):
    """The float at ``address``, of the type of ``like``."""

    def generate(context, builder, sig, args):
        return builder.load(builder.inttoptr(args[0], _ir_scalar(like).as_pointer()))

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
        scalar = _ir_scalar(value.scalar)
        kind = ir.FunctionType(scalar, [scalar, args[0].type])
        name = f"llvm.vector.reduce.fadd.v{value.lanes}f{value.scalar.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [ir.Constant(scalar, -0.0), args[0]], fastmath=("reassoc",))

    return value.scalar(value), generate


def _exp2_of_products(builder: ir.IRBuilder, vector: Vector, left: ir.Value, rights: list[ir.Value]) -> list[ir.Value]:
    """2**(left * right) of each right, where the product is finite and within the exponents of normal numbers.

    The product is rounded inside the multiply-add that forms it. The chains of the rights are written side by side.
    """
    if _SPLITS and vector.scalar == types.float32:
        return _scaled_exp2_of_products(builder, left, rights)
    type_, integers = left.type, _ir_integer(vector)
    mantissa, coefficients = (23, _EXP2_SINGLE) if vector.scalar == types.float32 else (52, _EXP2_DOUBLE)
    # Adding a large constant rounds, and leaves the whole part in the low bits.
    large = _constant(type_, 1.5 * 2.0**mantissa)
    rounded = [_multiply_add(builder, left, right, large) for right in rights]
    negative = [builder.fsub(large, value) for value in rounded]
    fractions = [_multiply_add(builder, left, *pair) for pair in zip(rights, negative, strict=True)]
    powers = _polynomials(builder, fractions, coefficients)
    shift = _constant(integers, mantissa)
    exponents = [builder.shl(builder.bitcast(value, integers), shift) for value in rounded]
    return [
        builder.bitcast(builder.add(builder.bitcast(power, integers), exponent), type_)
        for power, exponent in zip(powers, exponents, strict=True)
    ]


def _scaled_exp2_of_products(builder: ir.IRBuilder, left: ir.Value, rights: list[ir.Value]) -> list[ir.Value]:
    """`_exp2_of_products` with AVX-512's instructions: the whole part of x + 1/2 scales 2**(its fraction - 1/2)."""
    type_, integer = left.type, ir.IntType(32)
    all_lanes, rounding = ir.IntType(16)(2**16 - 1), integer(4)  # as the processor is set
    fraction_of = integer(9)  # from the next lower whole number
    kind = ir.FunctionType(type_, [type_, integer, type_, all_lanes.type, integer])
    reduce = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.reduce.ps.512")
    kind = ir.FunctionType(type_, [type_, type_, type_, all_lanes.type, integer])
    scale = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.scalef.ps.512")
    shifted = [_multiply_add(builder, left, right, _constant(type_, 0.5)) for right in rights]
    fractions = [builder.call(reduce, [value, fraction_of, value, all_lanes, rounding]) for value in shifted]
    powers = _polynomials(builder, fractions, _EXP2_UPPER_SINGLE)
    pairs = zip(powers, shifted, strict=True)
    return [builder.call(scale, [power, value, power, all_lanes, rounding]) for power, value in pairs]


def _polynomials(builder: ir.IRBuilder, values: list[ir.Value], coefficients: list[float]) -> list[ir.Value]:
    """Horner's scheme for each value, side by side; coefficients lowest first."""
    type_ = values[0].type
    results = [_constant(type_, coefficients[-1])] * len(values)
    for coefficient in reversed(coefficients[:-1]):
        constant = _constant(type_, coefficient)
        results = [_multiply_add(builder, *pair, constant) for pair in zip(results, values, strict=True)]
    return results


def _multiply_add(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, addend: ir.Value) -> ir.Value:
    """left * right + addend, in one instruction where there is one."""
    type_ = left.type
    name = f"llvm.fmuladd.v{type_.count}{'f32' if type_.element == ir.FloatType() else 'f64'}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(type_, [type_] * 3), name)
    return builder.call(function, [left, right, addend])


@intrinsic
def exp2_of_product(typing_context, left, right):
    """2**(left * right) where the product is finite and within the exponents of normal numbers; elsewhere anything."""

    def generate(context, builder, sig, args):
        return _exp2_of_products(builder, left, args[0], [args[1]])[0]

    return left(left, right), generate


@intrinsic
def advance_states(typing_context, d, dx, rates, state, b, c, y):
    """Advance `WAYS` neighbouring states by ``exp2(d rate) state + dx b``; returns y plus the new ones times c.

    Addresses of vectors (rates, state) and of scalars (b, c). The products ``d rate`` are as `exp2_of_product` needs.
    """

    def generate(context, builder, sig, args):
        d, dx, *addresses, y = args
        type_ = d.type

        def pointer(address: ir.Value, way: int, kind: ir.Type) -> ir.Value:
            return builder.gep(builder.inttoptr(address, kind.as_pointer()), [ir.IntType(64)(way)])

        def vectors(address: ir.Value) -> list[ir.Value]:
            loaded = [builder.load(pointer(address, way, type_)) for way in range(WAYS)]
            for value in loaded:
                value.align = sig.args[0].scalar.bitwidth // 8
            return loaded

        def scalars(address: ir.Value) -> list[ir.Value]:
            loaded = [builder.load(pointer(address, way, type_.element)) for way in range(WAYS)]
            return [_splat(builder, value, type_) for value in loaded]

        rates, state, b, c = addresses
        decays = _exp2_of_products(builder, sig.args[0], d, vectors(rates))
        kept = [builder.fmul(*pair) for pair in zip(decays, vectors(state), strict=True)]
        new = [_multiply_add(builder, dx, *pair) for pair in zip(scalars(b), kept, strict=True)]
        for way, value in enumerate(new):
            builder.store(value, pointer(state, way, type_)).align = sig.args[0].scalar.bitwidth // 8
        for pair in zip(new, scalars(c), strict=True):
            y = _multiply_add(builder, *pair, y)
        return y

    return d(d, dx, rates, state, b, c, y), generate


@intrinsic(prefer_literal=True)
def multiply_rows(typing_context, rows, stride, last, panels, count, out, out_stride, side_by_side, like):
    """Products of `ROWS_AT_ONCE` rows of ``count`` floats with one panel or two, into rows of vectors.

    A panel is (count, lanes) in memory, and another follows it; ``side_by_side``, a literal, is how many are taken.
    Rows beyond row ``last`` are row ``last`` again. All else are addresses and strides in bytes.
    """
    vector = _vector_of(like)

    def generate(context, builder, sig, args):
        rows, stride, last, panels, count, out, out_stride, *_ = args
        type_, integer = _ir_type(vector), ir.IntType(64)
        ways = range(sig.args[7].literal_value)

        def pointers(address: ir.Value, stride: ir.Value, kind: ir.Type) -> list[ir.Value]:
            numbers = [integer(row) for row in range(ROWS_AT_ONCE)]
            numbers = [builder.select(builder.icmp_signed("<", row, last), row, last) for row in numbers]
            addresses = [builder.add(address, builder.mul(row, stride)) for row in numbers]
            return [builder.inttoptr(address, kind.as_pointer()) for address in addresses]

        inputs, outputs = pointers(rows, stride, type_.element), pointers(out, out_stride, type_)
        panel = builder.inttoptr(panels, type_.as_pointer())
        starts = [builder.gep(panel, [builder.mul(count, integer(way))]) for way in ways]
        sums = [[cgutils.alloca_once_value(builder, _constant(type_, 0.0)) for _ in ways] for _ in inputs]
        with cgutils.for_range(builder, count) as loop:
            ahead = builder.add(loop.index, integer(_PANEL_AHEAD))
            for start in starts:
                _prefetch(builder, builder.gep(start, [ahead]), level=1)
            weights = [builder.load(builder.gep(start, [loop.index])) for start in starts]
            for weight in weights:
                weight.align = vector.scalar.bitwidth // 8
            for pointer, row_sums in zip(inputs, sums, strict=True):
                value = _splat(builder, builder.load(builder.gep(pointer, [loop.index])), type_)
                for weight, place in zip(weights, row_sums, strict=True):
                    builder.store(_multiply_add(builder, value, weight, builder.load(place)), place)
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
        return _ir_scalar(scalar)(-126.0 if scalar == types.float32 else -1022.0)

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
        limit = _splat(builder, context.cast(builder, args[1], bound, value.scalar), args[0].type)
        mask = ir.IntType(value.lanes)
        reached = builder.bitcast(builder.fcmp_ordered(">=", args[0], limit), mask)
        return builder.icmp_unsigned("==", reached, mask(2**value.lanes - 1))

    return types.boolean(value, bound), generate


@intrinsic
def _negative_magnitude(typing_context, value):
    def generate(context, builder, sig, args):
        integers = _ir_integer(value)
        sign = _constant(integers, 1 << (value.scalar.bitwidth - 1))
        return builder.bitcast(builder.or_(builder.bitcast(args[0], integers), sign), args[0].type)

    return value(value), generate


@intrinsic
def _clamp(typing_context, value, low, high):
    """Each lane at least ``low`` and at most ``high``, two floats; NaN stays NaN."""

    def generate(context, builder, sig, args):
        x, *bounds = args
        for bound, kind, comparison in zip(bounds, sig.args[1:], ("<", ">"), strict=True):
            limit = _splat(builder, context.cast(builder, bound, kind, value.scalar), x.type)
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


@intrinsic
def _log1p(typing_context, value):
    """log(1 + value) for lanes in [0, 1]."""

    def generate(context, builder, sig, args):
        (x,), type_ = args, args[0].type
        if value.scalar == types.float32:
            return builder.fmul(x, _polynomials(builder, [x], _LOG1P_SINGLE)[0])
        # 2 atanh(x / (2 + x)): a polynomial in x alone would need twice the degree.
        root = builder.fdiv(x, builder.fadd(x, _constant(type_, 2.0)))
        series = _polynomials(builder, [builder.fmul(root, root)], _ATANH_DOUBLE)[0]
        return builder.fmul(builder.fmul(root, _constant(type_, 2.0)), series)

    return value(value), generate


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


@njit(forceinline=True)
def exp2(value):
    """2**value. Out-of-range lanes saturate at the smallest and largest normal power of two; NaN stays NaN."""
    low = lowest_exponent(value)
    inside = _clamp(value, low, 1.0 - low)
    return exp2_of_product(inside, splat(1.0, value)) + (inside - inside)  # NaN, whatever its bits


@njit(forceinline=True)
def softplus(value):
    """log(1 + exp(value)) = max(value, 0) + log(1 + exp(-abs(value)))."""
    exponent = _clamp(_negative_magnitude(value), lowest_exponent(value) / LOG2_E, 0.0)
    return _clamp(value, 0.0, np.inf) + _log1p(exp2_of_product(exponent, splat(LOG2_E, value)))


@njit(forceinline=True)
def sigmoid(value):
    """1 / (1 + exp(-value)), without overflow for either sign."""
    limit = -lowest_exponent(value) / LOG2_E
    return splat(1.0, value) / (exp2_of_product(_clamp(value, -limit, limit), splat(-LOG2_E, value)) + 1.0)
