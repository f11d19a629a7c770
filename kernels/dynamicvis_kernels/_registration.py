"""Registration of an operator with torch: implementations, shape function, gradient.

The functions of `torch.library` below `custom_op` are used, since the first call of a `custom_op` imports torch's
compiler: more than a second of start-up, and nothing that an operator without mutation needs.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from dynamicvis_kernels._backend import (
    ENVIRONMENT_VARIABLE,
    check_tensors,
    check_type,
    choose_backend,
    run_in_float32,
    widen,
)


def register_operator(
    name: str,
    package: str,
    arguments: dict[str, str],
    output_shape: Callable[..., tuple[int, ...]],
    differentiable: int,
    check: Callable[..., None],
    prefix: str = "",
) -> Callable[..., torch.Tensor]:
    """Register ``dynamicvis::name`` and ``dynamicvis::name_backward`` for the CPU and for GPUs.

    Both check what they are given, whoever calls them: an exported graph calls them without the public function. Where
    the output has no element, no kernel runs.

    Args:
        name: name of the operator.
        package: package whose modules ``cpu`` and ``triton`` hold ``forward(*inputs) -> output`` and
            ``backward(grad, *inputs) -> gradients of the differentiable inputs``; the one that the backend names is
            imported at the first call. The CPU's gets float16 and bfloat16 as float32.
        arguments: names of the inputs and their types in torch's schema language.
        output_shape: shape of the output from the inputs; its type is the first input's.
        differentiable: how many of the inputs, from the first, are differentiable tensors.
        check: raises ValueError where the inputs do not fit together.
        prefix: what the names of the modules' functions start with.

    Returns:
        The operator.
    """
    forward_name, backward_name = f"dynamicvis::{name}", f"dynamicvis::{name}_backward"
    schema = ", ".join(f"{kind} {argument}" for argument, kind in arguments.items())
    tensors = [index for index, kind in enumerate(arguments.values()) if kind == "Tensor"]
    torch.library.define(forward_name, f"({schema}) -> Tensor")
    torch.library.define(backward_name, f"(Tensor grad, {schema}) -> Tensor[]")

    @functools.cache
    def implementation(on_cpu: bool, function: str) -> Callable[..., Any]:
        return getattr(importlib.import_module(f"{package}.{'cpu' if on_cpu else 'triton'}"), prefix + function)

    def takes_cpu(inputs: tuple[Any, ...]) -> bool:
        """Whether the CPU's implementation takes the inputs, else Triton's; raises ValueError where none does."""
        first = inputs[0]
        backend = choose_backend(first.device)
        if backend == "naive":
            raise ValueError(
                f"{forward_name} is the compiled operator, as an exported graph calls it, and has no naive version: "
                f"unset {ENVIRONMENT_VARIABLE}"
            )
        check_type(name, backend, next(iter(arguments)), first)
        check(*inputs)
        return backend == "cpu"

    def check_gradient(grad: torch.Tensor, inputs: tuple[Any, ...]) -> None:
        first = inputs[0]
        expected = {next(iter(arguments)): (first, first.shape), "grad": (grad, tuple(output_shape(*inputs)))}
        check_tensors(f"{name}_backward", expected, {})

    @torch.library.impl(forward_name, ("cpu", "cuda"))
    def forward(*inputs: Any) -> torch.Tensor:
        on_cpu = takes_cpu(inputs)
        shape = output_shape(*inputs)
        if 0 in shape:
            return inputs[0].new_empty(shape)
        function = implementation(on_cpu, "forward")
        return run_in_float32(function, *inputs) if on_cpu else function(*inputs)

    @torch.library.impl(backward_name, ("cpu", "cuda"))
    def backward(grad: torch.Tensor, *inputs: Any) -> list[torch.Tensor]:
        on_cpu = takes_cpu(inputs)
        check_gradient(grad, inputs)
        if not grad.numel():
            return [tensor.new_zeros(tensor.shape) for tensor in inputs[:differentiable]]
        function = implementation(on_cpu, "backward")
        if not on_cpu:
            return function(grad, *inputs)
        gradients = function(*widen((grad, *inputs)))
        return [gradient.to(value.dtype) for gradient, value in zip(gradients, inputs, strict=False)]

    @torch.library.register_fake(forward_name)
    def forward_fake(*inputs: Any) -> torch.Tensor:
        check(*inputs)
        return inputs[0].new_empty(output_shape(*inputs))

    @torch.library.register_fake(backward_name)
    def backward_fake(grad: torch.Tensor, *inputs: Any) -> list[torch.Tensor]:
        check(*inputs)
        check_gradient(grad, inputs)
        return [tensor.new_empty(tensor.shape) for tensor in inputs[:differentiable]]

    operators = torch.ops.dynamicvis

    def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*(inputs[index] for index in tensors))
        ctx.others = [None if index in tensors else value for index, value in enumerate(inputs)]

    def gradient(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs = list(ctx.others)
        for index, tensor in zip(tensors, ctx.saved_tensors, strict=True):
            inputs[index] = tensor
        gradients = getattr(operators, f"{name}_backward")(grad, *inputs)
        return (*gradients, *[None] * (len(inputs) - differentiable))

    def second_gradient(ctx: Any, *grads: Any) -> NoReturn:
        raise NotImplementedError(
            f"{name} has no second derivative: leave create_graph out, or set {ENVIRONMENT_VARIABLE}=naive (slow), "
            "which has one"
        )

    torch.library.register_autograd(forward_name, gradient, setup_context=save_inputs)
    # Without it torch would take the second derivative for zero, with a warning.
    torch.library.register_autograd(backward_name, second_gradient)
    return getattr(operators, name).default
