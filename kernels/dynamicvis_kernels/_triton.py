"""What the Triton kernels share: launches that are planned before they run, and functions of one value.

An operator's ``plan_forward`` and ``plan_backward`` only allocate, so they also run on tensors of the device ``meta``:
a report can plan at any shape and compile each launch ahead of time for a GPU that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from triton.compiler import ASTSource

LOG2_E = tl.constexpr(1.4426950408889634)

_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: ``arguments`` are its tensors and ints in order, ``constants`` its constexprs."""

    name: str
    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int = 1


def execute(launches: Iterable[Launch]) -> None:
    """Run launches in their order, those without a program left out."""
    for launch in launches:
        if 0 in launch.grid:
            continue
        with torch.cuda.device_of(launch.arguments[0]):
            launch.kernel[launch.grid](
                *launch.arguments, **launch.constants, num_warps=launch.num_warps, num_stages=launch.num_stages
            )


def signature(launch: Launch) -> dict[str, str]:
    """Triton's type of each parameter of the launch's kernel."""
    names = [name for name in launch.kernel.arg_names if name not in launch.constants]
    types = {name: _type(argument) for name, argument in zip(names, launch.arguments, strict=True)}
    return {name: types.get(name, "constexpr") for name in launch.kernel.arg_names}


def source(launch: Launch) -> ASTSource:
    """What `triton.compile` takes, specialised as at run time: divisibility by 16 of pointers and ints is known."""
    types = signature(launch)
    attributes = {}
    for name, argument in zip([n for n, t in types.items() if t != "constexpr"], launch.arguments, strict=True):
        value = argument.data_ptr() if isinstance(argument, torch.Tensor) else argument
        if value % 16 == 0:
            attributes[(launch.kernel.arg_names.index(name),)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, types, launch.constants, attributes)


def _type(argument: torch.Tensor | int) -> str:
    if isinstance(argument, torch.Tensor):
        return _TYPES[argument.dtype]
    return "i32" if -(2**31) <= argument < 2**31 else "i64"


@triton.jit
def sigmoid(value):
    """1 / (1 + exp(-value)); an overflow of the exponential ends in 0."""
    return 1.0 / (1.0 + tl.exp2(-value * LOG2_E))


@triton.jit
def softplus(value):
    """log(1 + exp(value)) = max(value, 0) + log1p(e) with e = exp(-abs(value)).

    log1p(e) / e is a minimax polynomial on [0, 1], within 5e-9: the relative error stays that of float32 however
    small the result.
    """
    decay = tl.exp2(-tl.abs(value) * LOG2_E)
    series = decay * -0.00324398088 + 0.0198512627
    series = decay * series - 0.0569591593
    series = decay * series + 0.106036169
    series = decay * series - 0.153055701
    series = decay * series + 0.196759315
    series = decay * series - 0.249541321
    series = decay * series + 0.333299623
    series = decay * series - 0.499999024
    series = decay * series + 0.999999995
    return tl.maximum(value, 0.0) + decay * series
