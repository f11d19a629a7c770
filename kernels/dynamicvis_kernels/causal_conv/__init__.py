"""Bidirectional causal depthwise convolution with SiLU."""

from __future__ import annotations

import torch

from dynamicvis_kernels._backend import (
    check_tensors,
    check_type,
    choose_backend,
    promote_under_autocast,
    run_in_float32,
)
from dynamicvis_kernels._registration import register_operator
from dynamicvis_kernels.causal_conv import naive

__all__ = ["causal_conv_silu"]


def _check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    if x.ndim != 3 or weight.ndim != 2:
        raise ValueError(
            "causal_conv_silu: x must have 3 dimensions (batch, length, channels) and weight 2 (channels, width), "
            f"got {x.ndim} and {weight.ndim}"
        )
    channels, width = x.shape[2], weight.shape[1]
    check_tensors(
        "causal_conv_silu",
        {"x": (x, x.shape)},
        {"weight": (weight, (channels, width)), "bias": (bias, (channels,))},
    )
    if width == 0:
        raise ValueError("causal_conv_silu: weight must have at least one tap, got width 0")


_compiled = register_operator(
    "causal_conv_silu",
    __name__,
    dict.fromkeys(("x", "weight", "bias"), "Tensor"),
    lambda x, weight, bias: (2, *x.shape),
    differentiable=3,
    check=_check,
)


def causal_conv_silu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Causal depthwise convolution of a sequence from both ends, then SiLU.

    ``y_0[t] = silu(bias + sum_k weight[k] x[t - (width - 1) + k])`` sees the past;
    ``y_1[t] = silu(bias + sum_k weight[k] x[t + (width - 1) - k])`` sees the future: what the same convolution gives on
    the reversed sequence, stored in the order of the sequence. Beyond the ends x is zero. Differentiable in every
    argument.

    x is float32, float16, bfloat16, or, except in Triton, float64. Beside float16 and bfloat16, weight and bias may
    each be float32. All arithmetic is float32 or wider whatever the types. Under `torch.autocast`, weight and bias are
    first promoted to a type that holds that of x.

    Args:
        x: (batch, length, channels).
        weight: (channels, width).
        bias: (channels,).

    Returns:
        (2, batch, length, channels), contiguous, of the type of x.

    Raises:
        ValueError: a shape, dtype or device does not fit, or no kernel runs on the device.

    Source: the short convolution of Mamba (arXiv 2312.00752, section 3.4), in both directions.
    """
    x, weight, bias = promote_under_autocast([x], [weight, bias])
    if choose_backend(x.device) == "naive":
        check_type("causal_conv_silu", "naive", "x", x)
        _check(x, weight, bias)
        return run_in_float32(naive.causal_conv_silu, x, weight, bias)
    return _compiled(x, weight, bias)
