"""What is checked of tensors that come from outside."""

from __future__ import annotations

import torch

_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64}) | {
    kind for name, kind in vars(torch).items() if name.startswith("float8_")
}


def tensor_problem(value: torch.Tensor) -> str | None:
    """Why a tensor is none to work with, in a few words, or None: it must lie in memory as a whole."""
    if value.layout != torch.strided or value.is_nested or value.is_quantized or value.is_meta:
        return "is no plain tensor"
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return "claims more values than the file holds"
    return None


def weight_problem(name: str, value: torch.Tensor, like: torch.Tensor | None = None) -> str | None:
    """Why a tensor is no weight, in a few words, or None: it must hold finite real numbers.

    Args:
        name: where it ends in ``running_var``, negative numbers are refused: a norm takes their root.
        value: the tensor.
        like: the one of the model; ``value`` must be floating point where it is, and an integer where it is.
    """
    problem = tensor_problem(value)
    if problem is not None:
        return problem
    if like is not None and value.is_floating_point() != like.is_floating_point():
        return f"has type {str(value.dtype).removeprefix('torch.')}, needed is {str(like.dtype).removeprefix('torch.')}"
    unusual = value.is_floating_point() and value.dtype not in _FLOATS
    if unusual or value.is_complex() or (value.dtype == torch.bool and like is not None and like.dtype != torch.bool):
        return f"has type {str(value.dtype).removeprefix('torch.')}, which no weight has"
    if like is not None and like.numel() and not value.numel():
        return "holds no values"
    if not value.is_floating_point():
        return None
    if not is_finite(value):
        return "holds NaN or infinity"
    narrow = like is not None and torch.finfo(like.dtype).max < torch.finfo(value.dtype).max
    if like is not None and narrow and not is_finite(value.to(like.dtype)):
        return f"holds numbers beyond {str(like.dtype).removeprefix('torch.')}"
    if name.endswith("running_var") and bool((value.float() < 0).any()):
        return "is a variance and negative"
    return None


def is_finite(value: torch.Tensor) -> bool:
    """Whether a floating-point tensor holds neither NaN nor infinity, in one pass and without a tensor of its size."""
    if not value.numel():
        return True
    # Both ends are NaN where any value is. In float32, since 8-bit floats cannot be compared.
    lowest, highest = torch.aminmax(value if value.dtype == torch.float64 else value.float())
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))
