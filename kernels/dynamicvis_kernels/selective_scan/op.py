"""Registration of the selective scan with torch: implementation, shape function, gradient."""

from __future__ import annotations

from typing import Any

import torch


@torch.library.custom_op("dynamicvis::selective_scan", mutates_args=(), device_types="cpu")
def selective_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    z: torch.Tensor,
    delta_bias: torch.Tensor,
) -> torch.Tensor:
    from dynamicvis_kernels.selective_scan import cpu

    return cpu.forward(u, delta, A, B, C, D, z, delta_bias)


@selective_scan.register_fake
def _(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    z: torch.Tensor,
    delta_bias: torch.Tensor,
) -> torch.Tensor:
    return z.new_empty(z.shape)


@torch.library.custom_op("dynamicvis::selective_scan_backward", mutates_args=(), device_types="cpu")
def _backward_op(
    grad: torch.Tensor,
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    z: torch.Tensor,
    delta_bias: torch.Tensor,
) -> list[torch.Tensor]:
    from dynamicvis_kernels.selective_scan import cpu

    return cpu.backward(grad, u, delta, A, B, C, D, z, delta_bias)


@_backward_op.register_fake
def _(grad: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in inputs]


def _save_inputs(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(_backward_op(grad, *ctx.saved_tensors))


selective_scan.register_autograd(_gradient, setup_context=_save_inputs)
