"""Large buffers on huge pages: a page fault per 2 MiB instead of per 4 KiB, where the system grants it."""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable, Sequence

import torch

_HUGE_PAGE = 1 << 21


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Uninitialised tensor on the CPU; from two huge pages on, the pages inside are asked to be huge.

    Fresh memory costs a fault for each of its pages when it is first written: for the output of a scan up to a tenth of
    the scan's own time. Only a hint: on a system without huge pages the tensor is an ordinary one.
    """
    tensor = torch.empty(shape, dtype=dtype)
    begin = -(-tensor.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
    end = (tensor.data_ptr() + tensor.nbytes) // _HUGE_PAGE * _HUGE_PAGE
    if tensor.nbytes >= 2 * _HUGE_PAGE and end > begin and (advise := _advise()) is not None:
        advise(begin, end - begin, mmap.MADV_HUGEPAGE)
    return tensor


@functools.cache
def _advise() -> Callable[[int, int, int], int] | None:
    """The C library's ``madvise``, on systems with huge pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
