"""What the CPU kernels that serve inference check before they take an address: in about a microsecond a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import torch

from dynamicvis_kernels._backend import PLAIN_TYPES, lies_in_memory

_DTYPES = (torch.float32, torch.float64)

Expected = Mapping[str, tuple[torch.Tensor, tuple[int, ...]]]


def check_arguments(
    operator: str,
    like: torch.Tensor,
    expected: Expected,
    dense: tuple[torch.Tensor, ...] = (),
    written: tuple[torch.Tensor, ...] = (),
) -> None:
    """Check the tensors of a kernel that torch does not know of.

    Args:
        operator: its name, for the error.
        like: the tensor that has the type of all others, float32 or float64.
        expected: the tensors by their names, and their shapes.
        dense: those among them whose last dimension must be dense.
        written: those that are written to; dense, and no two elements share memory.

    Raises:
        ValueError: names the operator, the argument, what was expected and what came; or a gradient is asked for.
    """
    dtype = like.dtype
    if dtype not in _DTYPES:
        raise ValueError(f"{operator}: the kernel computes in float32 or float64, got {dtype}")
    for tensor, shape in expected.values():
        if tensor.shape != shape or tensor.dtype is not dtype or not tensor.is_cpu or not lies_in_memory(tensor):
            _name_fault(operator, expected, tensor, shape, dtype)
    for tensor in (*dense, *written):
        if tensor.stride()[-1] != 1 and tensor.shape[-1] > 1:
            _name_strides(operator, expected, tensor, "rows that are dense")
    for tensor in written:
        if not tensor.is_contiguous() and overlaps_itself(tensor):
            _name_strides(operator, expected, tensor, "memory of its own for each element")
    if torch.is_grad_enabled():
        _refuse_gradient(operator, expected)


def check_indices(operator: str, indices: torch.Tensor, batch: int, count: int | None = None) -> None:
    """Check that indices are (batch, count), int64, contiguous, on the CPU; their values are the kernel's to check.

    Raises:
        ValueError: they are not.
    """
    if (
        type(indices) not in PLAIN_TYPES
        or indices.dtype != torch.int64
        or not indices.is_cpu
        or indices.ndim != 2
        or indices.shape != (batch, indices.shape[1] if count is None else count)
        or not indices.is_contiguous()
    ):
        wanted = f"({batch}, {'kept' if count is None else count})"
        raise ValueError(
            f"{operator}: indices must be {wanted}, torch.int64, contiguous, on the CPU, "
            f"got {tuple(indices.shape)}, {indices.dtype}, strides {indices.stride()}, on {indices.device}"
        )


def name_dimensions(operator: str, **expected: tuple[torch.Tensor, int]) -> NoReturn:
    """Raise ValueError that names the first tensor whose number of dimensions is another than expected."""
    name, tensor, wanted = next((k, t, n) for k, (t, n) in expected.items() if t.ndim != n)
    raise ValueError(f"{operator}: {name} must have {wanted} dimensions, got {tuple(tensor.shape)}")


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether elements of a tensor may share memory, as those of an expanded one do."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def _refuse_gradient(operator: str, expected: Expected) -> None:
    for name, (tensor, _) in expected.items():
        if tensor.requires_grad:
            raise ValueError(
                f"{operator} has no gradient, but {name} requires one: call it under torch.no_grad() or detach {name}"
            )


def _name_fault(
    operator: str,
    expected: Expected,
    tensor: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> NoReturn:
    name = _name(expected, tensor)
    if tensor.shape != shape:
        raise ValueError(f"{operator}: {name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
    if tensor.dtype != dtype or not tensor.is_cpu:
        raise ValueError(f"{operator}: {name} must be {dtype} on the CPU, got {tensor.dtype} on {tensor.device}")
    negated = " that is a negated view: call resolve_neg()" if tensor.is_neg() else ""
    raise ValueError(f"{operator}: {name} must be a plain tensor, got a {type(tensor).__name__}{negated}")


def _name_strides(operator: str, expected: Expected, tensor: torch.Tensor, wanted: str) -> NoReturn:
    raise ValueError(
        f"{operator}: {_name(expected, tensor)} must have {wanted}, got {tuple(tensor.shape)} "
        f"with strides {tensor.stride()}"
    )


def _name(expected: Expected, tensor: torch.Tensor) -> str:
    return next(name for name, (candidate, _) in expected.items() if candidate is tensor)
