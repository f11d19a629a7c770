"""The speed that the CPU allows a selective scan: its exponentials and multiply-adds, without its memory.

One update of a state by the scan is ``decay = exp(delta a)``, ``h = decay h + (delta u) b``, ``y = y + h c``: the
exponential of a product, another product and two fused multiply-adds. Two loops here do the same: the package's own
exponential, the same product and multiply-adds, with ``a``, ``b`` and ``c`` in the first-level cache. One keeps four
states in registers and stores nothing; the other is the kernel's own code, with its states in the cache too. Which is
faster depends on the processor, and that one is the ceiling.

What all states of a token and channel share is left out, or done as the operator does it: a softplus and a skip
connection for each token and direction, and a gate, ``z sigmoid(z)``, for each token. These have exponentials too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from dynamicvis_kernels._exponentials import advance_states, exp2_of_product, sigmoid, softplus
from dynamicvis_kernels._parallel import HEADER, Variant, load_parameter, run, work
from dynamicvis_kernels._simd import BYTES, lane_count, load, load_scalar, splat, store
from numba import njit

STATES = 16
_LENGTH, _STEP, _RATES, _WEIGHTS, _OUT, _SHARED, _STATES, _CACHE = range(HEADER, HEADER + 8)


@njit(forceinline=True, error_model="numpy")
def _update(delta, h, rate, weight, lanes, like):
    return exp2_of_product(delta, load(rate, lanes, like), h) + delta * load_scalar(weight, like)


@njit(error_model="numpy")
def _task(p, task, slot, like):
    # The step changes from token to token, and everything starts from memory: nothing can be moved out of the loops,
    # nor computed when the loop is compiled. In registers four states take turns, so that none waits for its last
    # update; their number comes from memory, since a compiler that knows it unrolls further than the registers reach.
    lanes, scalar, rates = lane_count(like), BYTES // lane_count(like), load_parameter(p, _RATES)
    weights = load_parameter(p, _WEIGHTS)
    step = load(load_parameter(p, _STEP), lanes, like)
    raw, y, out = step, splat(0.0, like), splat(0.0, like)
    h0, h1, h2, h3 = step, step, step, step
    shared, cache = load_parameter(p, _SHARED), load_parameter(p, _CACHE)
    states = cache + task * STATES * BYTES
    raw = raw * 0.999 + step
    next_delta = softplus(raw) * -1.0 if shared else raw
    for t in range(load_parameter(p, _LENGTH)):
        delta, gate = next_delta, raw
        raw = raw * 0.999 + step
        # Beside the states of this token, whose waits it fills.
        next_delta = softplus(raw) * -1.0 if shared else raw
        if cache:
            y = advance_states(STATES, delta, delta, rates, states, weights, weights, y)
        else:
            for n in range(0, load_parameter(p, _STATES), 4):
                rate, weight = rates + n * BYTES, weights + n * scalar
                h0 = _update(delta, h0, rate, weight, lanes, like)
                h1 = _update(delta, h1, rate + BYTES, weight + scalar, lanes, like)
                h2 = _update(delta, h2, rate + 2 * BYTES, weight + 2 * scalar, lanes, like)
                h3 = _update(delta, h3, rate + 3 * BYTES, weight + 3 * scalar, lanes, like)
                y = y + h0 * load_scalar(weight, like)
                y = y + h1 * load_scalar(weight + scalar, like)
                y = y + h2 * load_scalar(weight + 2 * scalar, like)
                y = y + h3 * load_scalar(weight + 3 * scalar, like)
        if shared:
            y = y + step * gate
            if t % 2:
                out = out + y * (gate * sigmoid(gate)) * 0.5
    store(load_parameter(p, _OUT) + task * BYTES, lanes, out if shared else y)


def _kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _task, variant)

    return kernel


def run_ceiling(updates: int, dtype: torch.dtype, *, shared: bool = False, cached: bool = False) -> torch.Tensor:
    """Do at least so many state updates on all threads, in equal shares.

    Args:
        updates: their number.
        dtype: float32 or float64.
        shared: also do what the states of a token and channel share: softplus, skip connection, gate.
        cached: have sixteen states in the first-level cache, instead of four in registers.

    Returns:
        (threads, lanes), the sums that keep the loop from being optimised away.
    """
    threads, lanes = torch.get_num_threads(), BYTES // dtype.itemsize
    out = torch.empty(threads, lanes, dtype=dtype)
    length = -(-updates // (out.numel() * STATES))
    step = torch.full((lanes,), -1e-4, dtype=dtype)
    weights = torch.arange(STATES, 0, -1, dtype=dtype)
    rates = weights.flip(0)[:, None].expand(-1, lanes).contiguous()
    states = step.repeat(threads, STATES)
    tensors = (step, rates, weights, out)
    parameters = [
        length,
        *(tensor.data_ptr() for tensor in tensors),
        shared,
        STATES,
        states.data_ptr() if cached else 0,
    ]
    run(_kernel, dtype, threads, parameters)
    return out
