"""Registration of the causal convolution with torch: implementation, shape function, gradient."""

from __future__ import annotations

from typing import Any

import torch


@torch.library.custom_op("dynamicvis::causal_conv_silu", mutates_args=(), device_types="cpu")
def causal_conv_silu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    from dynamicvis_kernels.causal_conv import cpu

    return cpu.forward(x, weight, bias)


@causal_conv_silu.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x.new_empty((2, *x.shape))


@torch.library.custom_op("dynamicvis::causal_conv_silu_backward", mutates_args=(), device_types="cpu")
def _backward_op(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
    from dynamicvis_kernels.causal_conv import cpu

    return cpu.backward(grad, x, weight, bias)


@_backward_op.register_fake
def _(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in (x, weight, bias)]


def _save_inputs(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(_backward_op(grad, *ctx.saved_tensors))


causal_conv_silu.register_autograd(_gradient, setup_context=_save_inputs)
