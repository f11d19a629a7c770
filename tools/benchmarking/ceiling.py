"""The speed that the CPU allows a selective scan: its exponentials and multiply-adds, without its memory.

One update of a state by the scan is ``decay = exp(delta a)``, ``h = decay h + (delta u) b``, ``y = y + h c``: an
exponential, two products and two fused multiply-adds. The loop here does the same from registers only: the package's
own exponential, the same products and multiply-adds, no load and no store. What is shared by all states of a token and
channel (softplus, gate, skip) is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from dynamicvis_kernels._parallel import HEADER, load_parameter, run, work
from dynamicvis_kernels._simd import BYTES, exp2_nonpositive, lane_count, load, splat, store
from numba import njit

STATES = 16
_LENGTH, _STEP, _OUT = HEADER, HEADER + 1, HEADER + 2


@njit(error_model="numpy")
def _task(p, task, slot, like):
    # Every operand changes from update to update, and starts from memory: nothing can be moved out of the loops, nor
    # computed when the loop is compiled.
    step = load(load_parameter(p, _STEP), lane_count(like), like)
    delta, h, y = step, step, splat(0.0, like)
    for _ in range(load_parameter(p, _LENGTH)):
        delta = delta * 0.999 + step
        exponent = splat(0.0, like)
        for _ in range(STATES):
            exponent = exponent + delta  # stands for the product delta a: the rates of a new model are 1 to 16
            h = exp2_nonpositive(exponent) * h + exponent * delta
            y = y + h * exponent
    store(load_parameter(p, _OUT) + task * BYTES, lane_count(like), y)


def _float32(p: int) -> None:
    work(p, _task, np.float32(0))


def _float64(p: int) -> None:
    work(p, _task, np.float64(0))


_KERNELS = {torch.float32: _float32, torch.float64: _float64}


def run_ceiling(updates: int, dtype: torch.dtype) -> torch.Tensor:
    """Do at least so many state updates on all threads, in equal shares.

    Returns:
        (threads, lanes), the sums that keep the loop from being optimised away.
    """
    threads = torch.get_num_threads()
    out = torch.empty(threads, BYTES // dtype.itemsize, dtype=dtype)
    length = -(-updates // (out.numel() * STATES))
    step = torch.full((out.shape[1],), -1e-4, dtype=dtype)
    run(_KERNELS[dtype], threads, [length, step.data_ptr(), out.data_ptr()])
    return out
