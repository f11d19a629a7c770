"""The speed that the CPU allows a selective scan: its exponentials and multiply-adds, without its memory.

One update of a state by the scan is ``decay = exp(delta a)``, ``h = decay h + (delta u) b``, ``y = y + h c``: the
exponential of a product, another product and two fused multiply-adds. The loop here does the same: the package's own
exponential, the same product and multiply-adds, with ``a`` and ``b`` in the first-level cache. It stores nothing.

What all states of a token and channel share is left out, or done as the operator does it: a softplus and a skip
connection for each token and direction, and a gate, ``z sigmoid(z)``, for each token. These have exponentials too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from dynamicvis_kernels._parallel import HEADER, Variant, load_parameter, run, work
from dynamicvis_kernels._simd import BYTES, exp2_of_product, lane_count, load, sigmoid, softplus, splat, store
from numba import njit

STATES = 16
_LENGTH, _STEP, _RATES, _OUT, _SHARED, _STATES = range(HEADER, HEADER + 6)


@njit(forceinline=True, error_model="numpy")
def _update(delta, h, rate, weight, lanes, like):
    return exp2_of_product(delta, load(rate, lanes, like)) * h + delta * load(weight, lanes, like)


@njit(error_model="numpy")
def _task(p, task, slot, like):
    # The step changes from token to token, and everything starts from memory: nothing can be moved out of the loops,
    # nor computed when the loop is compiled. Four states take turns, so that none waits for its last update; their
    # number comes from memory too, since a compiler that knows it unrolls further than the registers reach.
    lanes, rates = lane_count(like), load_parameter(p, _RATES)
    weights = rates + STATES * BYTES
    step = load(load_parameter(p, _STEP), lanes, like)
    raw, y, out = step, splat(0.0, like), splat(0.0, like)
    h0, h1, h2, h3 = step, step, step, step
    shared = load_parameter(p, _SHARED)
    raw = raw * 0.999 + step
    next_delta = softplus(raw) * -1.0 if shared else raw
    for t in range(load_parameter(p, _LENGTH)):
        delta, gate = next_delta, raw
        raw = raw * 0.999 + step
        # Beside the states of this token, whose waits it fills.
        next_delta = softplus(raw) * -1.0 if shared else raw
        for n in range(0, load_parameter(p, _STATES) * BYTES, 4 * BYTES):
            h0 = _update(delta, h0, rates + n, weights + n, lanes, like)
            h1 = _update(delta, h1, rates + n + BYTES, weights + n + BYTES, lanes, like)
            h2 = _update(delta, h2, rates + n + 2 * BYTES, weights + n + 2 * BYTES, lanes, like)
            h3 = _update(delta, h3, rates + n + 3 * BYTES, weights + n + 3 * BYTES, lanes, like)
            y = y + h0 * load(weights + n, lanes, like)
            y = y + h1 * load(weights + n + BYTES, lanes, like)
            y = y + h2 * load(weights + n + 2 * BYTES, lanes, like)
            y = y + h3 * load(weights + n + 3 * BYTES, lanes, like)
        if shared:
            y = y + step * gate
            if t % 2:
                out = out + y * (gate * sigmoid(gate)) * 0.5
    store(load_parameter(p, _OUT) + task * BYTES, lanes, out if shared else y)


def _kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _task, variant)

    return kernel


def run_ceiling(updates: int, dtype: torch.dtype, *, shared: bool = False) -> torch.Tensor:
    """Do at least so many state updates on all threads, in equal shares.

    Args:
        updates: their number.
        dtype: float32 or float64.
        shared: also do what the states of a token and channel share: softplus, skip connection, gate.

    Returns:
        (threads, lanes), the sums that keep the loop from being optimised away.
    """
    threads = torch.get_num_threads()
    out = torch.empty(threads, BYTES // dtype.itemsize, dtype=dtype)
    length = -(-updates // (out.numel() * STATES))
    step = torch.full((out.shape[1],), -1e-4, dtype=dtype)
    rates = torch.arange(1, STATES + 1, dtype=dtype)
    operands = torch.stack([rates, rates.flip(0)])[:, :, None].expand(-1, -1, out.shape[1]).contiguous()
    parameters = [length, step.data_ptr(), operands.data_ptr(), out.data_ptr(), shared, STATES]
    run(_kernel, dtype, threads, parameters)
    return out
