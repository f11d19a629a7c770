"""Run a compiled CPU kernel on all of torch's threads.

A kernel is a C function of one argument, the address of an int64 array
``[next task, next slot, number of tasks, refused, ...]``; a module gives it as a function that makes it for one
`Variant`. Every thread that enters takes a slot and then tasks until none is left, so the result cannot depend on the
number of threads, and the caller decides who the threads are: torch's own OpenMP pool where it is GNU's (a second pool
would fight its spinning workers), else a pool of Python threads, which run side by side since a kernel needs no
interpreter.
"""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic

from dynamicvis_kernels._cache import KernelCache

Variant = np.floating
"""What a kernel is compiled for: a float of the type it computes in."""
MakeKernel = Callable[[Variant], Callable[[int], None]]

_LIKE: dict[torch.dtype, np.floating] = {torch.float32: np.float32(0), torch.float64: np.float64(0)}
_TASKS = 2  # index of the number of tasks among a kernel's parameters
_REFUSED = 3  # index of what `refuse` writes
HEADER = 4  # index of the first parameter of the kernel's own
SEQUENCE = 4  # parameters that describe one sequence tensor
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True
    _thread_pool.cache_clear()


os.register_at_fork(after_in_child=_after_fork)


@intrinsic
def load_parameter(typing_context, parameters, index):
    """Parameter ``index`` of a kernel, an int64."""

    def generate(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(pointer, [args[1]]))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def store_parameter(typing_context, parameters, index, value):
    """Write an int64 to ``index`` of an array of them."""

    def generate(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        builder.store(args[2], builder.gep(pointer, [args[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _fetch_increment(typing_context, parameters, index):
    def generate(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", builder.gep(pointer, [args[1]]), ir.IntType(64)(1), "monotonic")

    return types.int64(types.int64, types.int64), generate


@njit(forceinline=True)
def refuse(parameters):
    """Say that an index lies outside: `Launch` raises once all tasks are done."""
    store_parameter(parameters, _REFUSED, 1)


@njit(forceinline=True)
def sequence_start(parameters, index, direction, batch):
    """Address of the first row of a sequence tensor, whose description starts at parameter ``index``."""
    address = load_parameter(parameters, index) + direction * load_parameter(parameters, index + 1)
    return address + batch * load_parameter(parameters, index + 2)


@njit(forceinline=True)
def row_stride(parameters, index):
    """Bytes between neighbouring rows of a sequence tensor."""
    return load_parameter(parameters, index + 3)


@njit(forceinline=True, error_model="numpy")  # else the address of do_task stays in the code, which numba cannot cache
def work(parameters, do_task, variant):
    """Call ``do_task(parameters, task, slot, like)`` for tasks until none is left.

    ``slot`` numbers the calling threads from 0, and names a thread's part of a scratch buffer.
    """
    slot = _fetch_increment(parameters, 1)
    task = _fetch_increment(parameters, 0)
    while task < load_parameter(parameters, _TASKS):
        do_task(parameters, task, slot, variant)
        task = _fetch_increment(parameters, 0)


def describe_sequence(tensor: torch.Tensor) -> list[int]:
    """Address and byte strides over direction, batch and row.

    ``tensor`` is ([2,] batch, length, columns) with dense columns; without directions, both see the same memory.

    Raises:
        ValueError: its columns are not dense.
    """
    strides, size = tensor.stride(), tensor.element_size()
    if strides[-1] != 1 and tensor.shape[-1] > 1:
        raise ValueError(f"a kernel takes rows that are dense, got {tuple(tensor.shape)} with strides {strides}")
    if len(strides) == 3:
        return [tensor.data_ptr(), 0, strides[0] * size, strides[1] * size]
    return [tensor.data_ptr(), strides[0] * size, strides[1] * size, strides[2] * size]


def address(tensor: torch.Tensor) -> int:
    """Address of a contiguous tensor.

    Raises:
        ValueError: it is not contiguous.
    """
    if not tensor.is_contiguous():
        raise ValueError(f"a kernel takes {tuple(tensor.shape)} contiguous, got strides {tensor.stride()}")
    return tensor.data_ptr()


@functools.cache
def _compile_kernel(make: MakeKernel, dtype: torch.dtype) -> Any:
    """Compile a kernel once; later processes load it."""
    like = _LIKE[dtype]
    kernel = make(like)
    compiled: Any = CFunc(kernel, normalize_signature(types.void(types.int64)), {}, {"error_model": "numpy"})
    compiled._cache = KernelCache(kernel, like.dtype.name)  # numba.cfunc would take its own cache
    compiled.compile()
    return compiled


def thread_count(tasks: int) -> int:
    """Number of threads that ``run`` uses for so many tasks."""
    if tasks <= 1 or _forked:
        return 1
    threads = torch.get_num_threads()
    return threads if threads < tasks else tasks


class Launch:
    """A kernel and its parameters, to be run more than once, with some of them changed in between.

    The tensors that the parameters point to must live as long.

    Args:
        make: makes the kernel.
        dtype: type that it computes in, float32 or float64.
        tasks: their number.
        parameters: the kernel's own, from index `HEADER` on.
        slots: how many threads the kernel's scratch has room for; without scratch, any number.
    """

    def __init__(
        self, make: MakeKernel, dtype: torch.dtype, tasks: int, parameters: Sequence[int], slots: int | None = None
    ) -> None:
        self._kernel = _compile_kernel(make, dtype)
        self._block = array("q", [0, 0, tasks, 0, *parameters])
        self._slots = slots

    def change(self, index: int, *values: int) -> None:
        """Replace neighbouring parameters, from ``index`` on."""
        for offset, value in enumerate(values):
            self._block[index + offset] = value

    def __call__(self, tasks: int | None = None) -> None:
        """Run on all threads until all tasks are done, ``tasks`` of them from now on; releases the interpreter lock.

        Raises:
            ValueError: an index lies outside what it points into; the results are undefined.
        """
        block = self._block
        block[0] = block[1] = block[_REFUSED] = 0
        if tasks is not None:
            block[_TASKS] = tasks
        threads = thread_count(block[_TASKS])
        # The number of threads may have been changed since the scratch was made.
        self._run(threads if self._slots is None or threads < self._slots else self._slots)
        if block[_REFUSED]:
            raise ValueError("an index lies outside the sequence that it points into")

    def _run(self, threads: int) -> None:
        parameters, _ = self._block.buffer_info()
        if threads == 1:
            self._kernel.ctypes(parameters)
            return
        parallel = _gomp_parallel()
        if parallel is not None:
            parallel(self._kernel.address, parameters, threads, 0)
            return
        done = [_thread_pool().submit(self._kernel.ctypes, parameters) for _ in range(threads - 1)]
        self._kernel.ctypes(parameters)
        for future in done:
            future.result()


def run(make: MakeKernel, dtype: torch.dtype, tasks: int, parameters: Sequence[int], slots: int | None = None) -> None:
    """Run a kernel once, see `Launch`."""
    Launch(make, dtype, tasks, parameters, slots)()


@functools.cache
def _gomp_parallel() -> Any:
    """``GOMP_parallel`` of the libgomp that torch has loaded, or None where torch uses another runtime."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    loaded = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    if len(loaded) != 1:
        return None
    try:
        function = ctypes.CDLL(loaded.pop()).GOMP_parallel
    except (OSError, AttributeError):  # its file was replaced while torch runs on the old one
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function


@functools.cache
def _thread_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads() - 1), thread_name_prefix="dynamicvis")
