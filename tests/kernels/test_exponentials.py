"""The CPU kernels' exponentials, against numpy in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from dynamicvis_kernels._exponentials import _SPLITS, exp2, sigmoid, softplus
from dynamicvis_kernels._simd import lane_count, load, store
from numba import njit

DTYPES = [np.float32, np.float64]


def apply(function: Callable, values: np.ndarray) -> np.ndarray:
    """``function`` of every element; the last vector is read and written in part."""

    @njit(error_model="numpy")
    def walk(source, target, count, size, like):  # type: ignore[no-untyped-def]
        lanes = lane_count(like)
        for start in range(0, count, lanes):
            width = min(lanes, count - start)
            store(target + start * size, width, function(load(source + start * size, width, like)))

    result = np.empty_like(values)
    walk(values.ctypes.data, result.ctypes.data, values.size, values.itemsize, values.dtype.type(0))
    return result


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp2_follows_numpy(dtype: type) -> None:
    values = np.random.default_rng(0).uniform(-126, 127, 20003).astype(dtype)
    values[:300] = np.linspace(-1, 1, 300)
    # In float32 the polynomial's error, 2e-7, and roundings; in float64 a few roundings of terms below 1.
    bound = 2e-7 + np.finfo(dtype).eps if dtype == np.float32 else 4 * np.finfo(dtype).eps
    exact = np.exp2(values.astype(np.longdouble))
    if dtype == np.float32 and _SPLITS:  # x + 1/2 is rounded
        bound = bound + np.where(values > 0, np.log(2) / 2 * np.spacing(values + dtype(0.5)), 0)
    assert (np.abs(apply(exp2, values) - exact) <= bound * exact).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp2_of_whole_numbers_is_exact(dtype: type) -> None:
    numbers = np.arange(-126, 128)
    assert (apply(exp2, numbers.astype(dtype)) == np.ldexp(dtype(1), numbers)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_of_exp2_vanishes_towards_zero(dtype: type) -> None:
    exponents = -(2.0 ** np.arange(-20, -6)).astype(dtype)
    # Half a unit in the last place below 1, and the slope's relative error, 1e-6, of what is lost.
    lost = -np.expm1(exponents.astype(np.float64) * np.log(2))
    error = np.abs(apply(exp2, exponents).astype(np.float64) - np.exp2(exponents.astype(np.float64)))
    assert (error <= np.finfo(dtype).eps / 2 + 1e-6 * lost * (dtype == np.float32)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp2_saturates_and_keeps_nan(dtype: type) -> None:
    limit = 126 if dtype == np.float32 else 1022
    values = np.array([-np.inf, -2.0 * limit, 2.0 * limit, np.inf, np.nan], dtype=dtype)
    low, high = 2.0**-limit, 2.0 ** (limit + 1)
    np.testing.assert_array_equal(apply(exp2, values), np.array([low, low, high, high, np.nan], dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_and_sigmoid_follow_numpy(dtype: type) -> None:
    values = np.random.default_rng(1).uniform(-80, 80, 4001).astype(dtype)
    values[:5] = [0.0, -1e-6, 1e-6, 300.0, -80.0]
    exact = values.astype(np.longdouble)
    # Twice the polynomial's error, ten roundings, and that of log2(e), which grows with the exponent.
    bound = 4e-7 * (dtype == np.float32) + np.finfo(dtype).eps * (10 + np.abs(exact))
    for function, expected in ((softplus, np.logaddexp(0, exact)), (sigmoid, 1 / (1 + np.exp(-exact)))):
        assert (np.abs(apply(function, values) - expected) <= bound * expected).all()
