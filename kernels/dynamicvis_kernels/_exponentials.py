"""Exponentials of SIMD vectors, and what is made of them: softplus, sigmoid, and the states of a selective scan."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dynamicvis_kernels._simd import (
    FEATURES,
    Vector,
    clamp,
    constant,
    ir_integer,
    lowest_exponent,
    multiply_add,
    splat,
    splat_value,
)


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
_EXP2_EIGHTH_SINGLE = [1.0, *_fit(_exp2_slope, 2, -1 / 16, 1 / 16)]
# Bits of 2**(k/8), less what the number k adds to them where the exponent belongs.
_EIGHTHS = [int(np.float32(2 ** (k / 8)).view(np.int32)) - (k << 20) for k in range(8)]
_EXP2_DOUBLE = [math.log(2) ** k / math.factorial(k) for k in range(13)]
_LOG1P_SINGLE = _fit(_log1p_slope, 8, 0.0, 1.0)
_ATANH_DOUBLE = _fit(_atanh_ratio, 12, 0.0, 1.0 / 9.0)
LOG2_E = 1.4426950408889634

# Chains of vectors that a kernel writes side by side: what the registers hold, of which AVX-512 has twice as many.
WAYS = 4 if "+avx512f" in FEATURES else 2
# Whether one instruction takes the fraction of a float, and one scales by a power of two.
_SPLITS = "+avx512dq" in FEATURES
# Else, whether one instruction looks eight floats up in a register.
_LOOKS_UP = "+avx2" in FEATURES and not _SPLITS


def _exp2_of_products(
    builder: ir.IRBuilder, vector: Vector, left: ir.Value, rights: list[ir.Value], factors: list[ir.Value]
) -> list[ir.Value]:
    """2**(left * right) times its factor, of each right.

    The products are finite and within the exponents of normal numbers. They are rounded inside the multiply-add that
    forms them. The chains of the rights are written side by side.
    """
    if vector.scalar == types.float32 and _LOOKS_UP:
        return _looked_up_exp2_of_products(builder, left, rights, factors)
    if vector.scalar == types.float32 and _SPLITS:
        powers = _scaled_exp2_of_products(builder, left, rights)
    else:
        powers = _shifted_exp2_of_products(builder, vector, left, rights)
    return [builder.fmul(*pair) for pair in zip(powers, factors, strict=True)]


def _shifted_exp2_of_products(
    builder: ir.IRBuilder, vector: Vector, left: ir.Value, rights: list[ir.Value]
) -> list[ir.Value]:
    """2**(left * right) of each right: the power of the product's fraction, with its whole part for an exponent."""
    type_, integers = left.type, ir_integer(vector)
    mantissa, coefficients = (23, _EXP2_SINGLE) if vector.scalar == types.float32 else (52, _EXP2_DOUBLE)
    # Adding a large constant rounds, and leaves the whole part in the low bits.
    rounded, fractions = _round_products(builder, left, rights, 1.5 * 2.0**mantissa)
    powers = _polynomials(builder, fractions, coefficients)
    shift = constant(integers, mantissa)
    exponents = [builder.shl(builder.bitcast(value, integers), shift) for value in rounded]
    return [
        builder.bitcast(builder.add(builder.bitcast(power, integers), exponent), type_)
        for power, exponent in zip(powers, exponents, strict=True)
    ]


def _scaled_exp2_of_products(builder: ir.IRBuilder, left: ir.Value, rights: list[ir.Value]) -> list[ir.Value]:
    """2**(left * right) with AVX-512's instructions: the whole part of x + 1/2 scales 2**(its fraction - 1/2).

    x + 1/2 is rounded, which changes the result by up to ln(2) / 2 units in the last place of x where x is positive,
    and by nothing that counts where it is not: a decay, the only exponent of a stable scan.
    """
    type_, integer = left.type, ir.IntType(32)
    all_lanes, rounding = ir.IntType(16)(2**16 - 1), integer(4)  # as the processor is set
    fraction_of = integer(9)  # from the next lower whole number
    kind = ir.FunctionType(type_, [type_, integer, type_, all_lanes.type, integer])
    reduce = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.reduce.ps.512")
    kind = ir.FunctionType(type_, [type_, type_, type_, all_lanes.type, integer])
    scale = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.scalef.ps.512")
    shifted = [multiply_add(builder, left, right, constant(type_, 0.5)) for right in rights]
    fractions = [builder.call(reduce, [value, fraction_of, value, all_lanes, rounding]) for value in shifted]
    powers = _polynomials(builder, fractions, _EXP2_UPPER_SINGLE)
    pairs = zip(powers, shifted, strict=True)
    return [builder.call(scale, [power, value, power, all_lanes, rounding]) for power, value in pairs]


def _looked_up_exp2_of_products(
    builder: ir.IRBuilder, left: ir.Value, rights: list[ir.Value], factors: list[ir.Value]
) -> list[ir.Value]:
    """`_exp2_of_products` with AVX2's instructions: eighths of a power are looked up, few are computed."""
    type_, lanes = left.type, len(_EIGHTHS)
    if type_.count > lanes:
        halves = [range(lanes), range(lanes, 2 * lanes)]
        done = [
            _looked_up_exp2_of_products(
                builder,
                _take(builder, left, half),
                [_take(builder, right, half) for right in rights],
                [_take(builder, factor, half) for factor in factors],
            )
            for half in halves
        ]
        return [_join(builder, *pair) for pair in zip(*done, strict=True)]
    integers = ir.VectorType(ir.IntType(32), lanes)
    table, shift = builder.bitcast(ir.Constant(integers, _EIGHTHS), type_), constant(integers, 20)
    kind = ir.FunctionType(type_, [type_, integers])
    look_up = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.permps")
    # Adding a large constant rounds to eighths, and leaves their number in the low bits: three bits and the exponent.
    rounded, fractions = _round_products(builder, left, rights, 1.5 * 2.0**20)
    powers = _polynomials(builder, fractions, _EXP2_EIGHTH_SINGLE)
    numbers = [builder.bitcast(value, integers) for value in rounded]
    eighths = [builder.bitcast(builder.call(look_up, [table, number]), integers) for number in numbers]
    scales = [builder.add(eighth, builder.shl(number, shift)) for eighth, number in zip(eighths, numbers, strict=True)]
    # What is known before the powers is multiplied first.
    scaled = [
        builder.fmul(factor, builder.bitcast(scale, type_)) for factor, scale in zip(factors, scales, strict=True)
    ]
    return [builder.fmul(*pair) for pair in zip(powers, scaled, strict=True)]


def _round_products(
    builder: ir.IRBuilder, left: ir.Value, rights: list[ir.Value], large: float
) -> tuple[list[ir.Value], list[ir.Value]]:
    """``left * right + large`` of each right, and what ``large`` rounded away from the product."""
    addend = constant(left.type, large)
    rounded = [multiply_add(builder, left, right, addend) for right in rights]
    negative = [builder.fsub(addend, value) for value in rounded]
    return rounded, [multiply_add(builder, left, *pair) for pair in zip(rights, negative, strict=True)]


def _take(builder: ir.IRBuilder, value: ir.Value, lanes: range) -> ir.Value:
    """Some lanes of a vector."""
    return builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def _join(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Two vectors as one."""
    lanes = range(2 * left.type.count)
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def _polynomials(builder: ir.IRBuilder, values: list[ir.Value], coefficients: list[float]) -> list[ir.Value]:
    """Horner's scheme for each value, side by side; coefficients lowest first."""
    type_ = values[0].type
    results = [constant(type_, coefficients[-1])] * len(values)
    for coefficient in reversed(coefficients[:-1]):
        addend = constant(type_, coefficient)
        results = [multiply_add(builder, *pair, addend) for pair in zip(results, values, strict=True)]
    return results


@intrinsic
def exp2_of_product(typing_context, left, right, factor):
    """2**(left * right) * factor, where the product is finite and the power a normal number; elsewhere anything."""

    def generate(context, builder, sig, args):
        exponent, rate, times = args
        return _exp2_of_products(builder, left, exponent, [rate], [times])[0]

    return left(left, right, factor), generate


@intrinsic(prefer_literal=True)
def advance_states(typing_context, count, d, dx, rates, state, b, c, y):
    """Advance neighbouring states by ``exp2(d rate) state + dx b``; returns y plus the new ones times c.

    Their ``count`` is a literal, a multiple of `WAYS`, of which so many are written side by side. Addresses of vectors
    (rates, state) and of scalars (b, c). The products ``d rate`` are as `exp2_of_product` needs.
    """

    def generate(context, builder, sig, args):
        _, d, dx, *addresses, y = args
        type_ = d.type

        def pointers(address: ir.Value, numbers: range, kind: ir.Type) -> list[ir.Value]:
            start = builder.inttoptr(address, kind.as_pointer())
            return [builder.gep(start, [ir.IntType(64)(number)]) for number in numbers]

        def vectors(address: ir.Value, numbers: range) -> list[ir.Value]:
            loaded = [builder.load(pointer) for pointer in pointers(address, numbers, type_)]
            for value in loaded:
                value.align = d_type.scalar.bitwidth // 8
            return loaded

        def scalars(address: ir.Value, numbers: range) -> list[ir.Value]:
            loaded = [builder.load(pointer) for pointer in pointers(address, numbers, type_.element)]
            return [splat_value(builder, value, type_) for value in loaded]

        (states, d_type, *_), (rates, state, b, c) = sig.args, addresses
        for first in range(0, states.literal_value, WAYS):
            numbers = range(first, first + WAYS)
            kept = _exp2_of_products(builder, d_type, d, vectors(rates, numbers), vectors(state, numbers))
            new = [multiply_add(builder, dx, *pair) for pair in zip(scalars(b, numbers), kept, strict=True)]
            for value, pointer in zip(new, pointers(state, numbers, type_), strict=True):
                builder.store(value, pointer).align = d_type.scalar.bitwidth // 8
            for pair in zip(new, scalars(c, numbers), strict=True):
                y = multiply_add(builder, *pair, y)
        return y

    return d(count, d, dx, rates, state, b, c, y), generate


@intrinsic
def _negative_magnitude(typing_context, value):
    def generate(context, builder, sig, args):
        integers = ir_integer(value)
        sign = constant(integers, 1 << (value.scalar.bitwidth - 1))
        return builder.bitcast(builder.or_(builder.bitcast(args[0], integers), sign), args[0].type)

    return value(value), generate


@intrinsic
def _log1p(typing_context, value):
    """log(1 + value) for lanes in [0, 1]."""

    def generate(context, builder, sig, args):
        (x,), type_ = args, args[0].type
        if value.scalar == types.float32:
            return builder.fmul(x, _polynomials(builder, [x], _LOG1P_SINGLE)[0])
        # 2 atanh(x / (2 + x)): a polynomial in x alone would need twice the degree.
        root = builder.fdiv(x, builder.fadd(x, constant(type_, 2.0)))
        series = _polynomials(builder, [builder.fmul(root, root)], _ATANH_DOUBLE)[0]
        return builder.fmul(builder.fmul(root, constant(type_, 2.0)), series)

    return value(value), generate


@njit(forceinline=True)
def exp2(value):
    """2**value. Out-of-range lanes saturate at the smallest and largest normal power of two; NaN stays NaN."""
    low = lowest_exponent(value)
    inside = clamp(value, low, 1.0 - low)
    return exp2_of_product(inside, splat(1.0, value), splat(1.0, value)) + (inside - inside)  # NaN, whatever its bits


@njit(forceinline=True)
def softplus(value):
    """log(1 + exp(value)) = max(value, 0) + log(1 + exp(-abs(value)))."""
    exponent = clamp(_negative_magnitude(value), lowest_exponent(value) / LOG2_E, 0.0)
    return clamp(value, 0.0, np.inf) + _log1p(exp2_of_product(exponent, splat(LOG2_E, value), splat(1.0, value)))


@njit(forceinline=True)
def sigmoid(value):
    """1 / (1 + exp(-value)), without overflow for either sign."""
    limit, one = -lowest_exponent(value) / LOG2_E, splat(1.0, value)
    return one / (exp2_of_product(clamp(value, -limit, limit), splat(-LOG2_E, value), one) + 1.0)
