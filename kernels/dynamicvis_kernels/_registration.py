"""Registration of an operator with torch: implementation, shape function, gradient.

The functions of `torch.library` below `custom_op` are used, since the first call of a `custom_op` imports torch's
compiler: more than a second of start-up, and nothing that an operator without mutation needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch


def register_operator(
    name: str, arguments: Sequence[str], package: str, output_shape: Callable[..., tuple[int, ...]]
) -> Callable[..., torch.Tensor]:
    """Register ``dynamicvis::name`` and ``dynamicvis::name_backward``.

    Args:
        name: name of the operator.
        arguments: names of its inputs, all tensors, all differentiable.
        package: package whose module ``cpu`` holds ``forward(*inputs) -> output`` and
            ``backward(grad, *inputs) -> gradients of all inputs``; it is imported at the first call.
        output_shape: shape of the output from the inputs.

    Returns:
        The operator.
    """
    forward_name, backward_name = f"dynamicvis::{name}", f"dynamicvis::{name}_backward"
    tensors = ", ".join(f"Tensor {argument}" for argument in arguments)
    torch.library.define(forward_name, f"({tensors}) -> Tensor")
    torch.library.define(backward_name, f"(Tensor grad, {tensors}) -> Tensor[]")

    @torch.library.impl(forward_name, "cpu")
    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        return importlib.import_module(f"{package}.cpu").forward(*inputs)

    @torch.library.impl(backward_name, "cpu")
    def backward(grad: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
        return importlib.import_module(f"{package}.cpu").backward(grad, *inputs)

    @torch.library.register_fake(forward_name)
    def forward_fake(*inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0].new_empty(output_shape(*inputs))

    @torch.library.register_fake(backward_name)
    def backward_fake(grad: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
        return [tensor.new_empty(tensor.shape) for tensor in inputs]

    operators = torch.ops.dynamicvis

    def save_inputs(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def gradient(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(getattr(operators, f"{name}_backward")(grad, *ctx.saved_tensors))

    torch.library.register_autograd(forward_name, gradient, setup_context=save_inputs)
    return getattr(operators, name).default
