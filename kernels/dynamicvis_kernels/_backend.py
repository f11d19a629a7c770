"""Which implementation runs an operator, and what it takes."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

ENVIRONMENT_VARIABLE = "DYNAMICVIS_BACKEND"
_INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("triton", "mamba_ssm")}
_LOW_PRECISION = (torch.float16, torch.bfloat16)
_DTYPES = {
    "naive": (torch.float32, torch.float64, *_LOW_PRECISION),
    "cpu": (torch.float32, torch.float64, *_LOW_PRECISION),
    "triton": (torch.float32, *_LOW_PRECISION),
    "mamba_ssm": (torch.float32, *_LOW_PRECISION),
}
PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)  # other subclasses may have no memory of their own
_logger = logging.getLogger("dynamicvis_kernels")

Expected = dict[str, tuple[torch.Tensor, tuple[int, ...]]]


def choose_backend(device: torch.device) -> str:
    """Name of the implementation for tensors on ``device``: the forced one, else the device's compiled one.

    ``cpu`` serves the CPU; ``triton`` serves NVIDIA's and AMD's GPUs, whose device type is ``cuda`` for both, and the
    CPU under Triton's interpreter; ``naive`` serves both. ``mamba_ssm`` takes the scan on ``cuda``, and leaves the
    other operators to Triton.

    Raises:
        ValueError: the forced implementation is unknown or does not run on the device, or none does.
    """
    return _choose(device.type, os.environ.get(ENVIRONMENT_VARIABLE) or None)


@functools.cache
def _choose(device: str, forced: str | None) -> str:
    if forced is None:
        backend = {"cpu": "cpu", "cuda": "triton"}.get(device)
        if backend is None or (backend == "triton" and not _INSTALLED["triton"]):
            install = "install triton, " if device == "cuda" else ""
            raise ValueError(
                f"no compiled kernel for device type '{device}': {install}move the model and its input to the CPU, "
                f"or set {ENVIRONMENT_VARIABLE}=naive (slow) to run in plain torch"
            )
    elif forced not in (available := _available(device)):
        hint = " (its interpreter does if TRITON_INTERPRET=1 is set before triton is imported)"
        raise ValueError(
            f"{ENVIRONMENT_VARIABLE}={forced} has no kernel for device type '{device}'"
            f"{hint if (forced, device) == ('triton', 'cpu') else ''}; "
            f"available there: {', '.join(available) or 'none'}"
        )
    else:
        backend = forced
    # A log call would break the graph that torch.compile traces.
    if not torch.compiler.is_compiling():
        _logger.debug("device type %s: %s kernels", device, backend)
    return backend


def _available(device: str) -> list[str]:
    """The implementations that run on a type of device."""
    if device == "cpu":
        return ["naive", "cpu", *(["triton"] if _INSTALLED["triton"] and _interpreted() else [])]
    if device == "cuda":
        names = ["naive", *(["triton"] if _INSTALLED["triton"] else [])]
        return [*names, "mamba_ssm"] if all(_INSTALLED.values()) else names
    return []


def _interpreted() -> bool:
    """Whether Triton interprets its kernels: it decides when it is imported."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return False
    language = sys.modules.get("triton.language")
    return language is None or type(language.sum).__name__ == "InterpretedFunction"


def is_followed() -> bool:
    """Whether something follows torch's operations: tracing, forward-mode differentiation, `torch.func`, a mode.

    It would not see a kernel that torch does not know of, and its tensors may have no memory.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def lies_in_memory(tensor: torch.Tensor) -> bool:
    """Whether the values of a tensor stand at its address: neither those of a subclass, nor sparse, nor negated."""
    return type(tensor) in PLAIN_TYPES and tensor.layout is torch.strided and not tensor.is_neg()


def check_type(operator: str, backend: str, name: str, tensor: torch.Tensor) -> None:
    """Check that an implementation knows the type of a tensor.

    Raises:
        ValueError: it does not.
    """
    if tensor.dtype not in _DTYPES[backend]:
        known = ", ".join(str(known).removeprefix("torch.") for known in _DTYPES[backend])
        raise ValueError(f"{operator}: {name} must be one of {known} on {backend} kernels, got {tensor.dtype}")


def check_tensors(operator: str, sequences: Expected, parameters: Expected) -> None:
    """Check shapes, devices and types.

    All share the first sequence's device. The sequences share one type; each parameter has that type, or float32 where
    it is float16 or bfloat16.

    Raises:
        ValueError: names the operator, the argument, what was expected and what came.
    """
    first_name, (first, _) = next(iter(sequences.items()))
    dtype, device = first.dtype, first.device
    for expected, dtypes in (
        (sequences, (dtype,)),
        (parameters, (dtype, torch.float32) if dtype in _LOW_PRECISION else (dtype,)),
    ):
        for name, (tensor, shape) in expected.items():
            if tensor.shape != shape:
                raise ValueError(f"{operator}: {name} must have shape {shape}, got {tuple(tensor.shape)}")
            if tensor.dtype not in dtypes or tensor.device != device:
                raise ValueError(
                    f"{operator}: {name} must be {' or '.join(map(str, dtypes))} on {device} like {first_name}, "
                    f"got {tensor.dtype} on {tensor.device}"
                )


def promote_under_autocast(sequences: list[torch.Tensor], parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """All tensors; under `torch.autocast`, where each comes in the type its operator chose, in types that fit.

    The sequences then have the widest of their types, and the parameters one that holds it.
    """
    device = sequences[0].device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return [*sequences, *parameters]
    dtype = functools.reduce(torch.promote_types, (sequence.dtype for sequence in sequences))
    promoted = [sequence.to(dtype) for sequence in sequences]
    return promoted + [parameter.to(torch.promote_types(parameter.dtype, dtype)) for parameter in parameters]


def run_in_float32(function: Callable[..., torch.Tensor], *inputs: Any) -> torch.Tensor:
    """``function`` of the inputs with float16 and bfloat16 widened to float32; the result in the first one's type."""
    first = inputs[0]
    if not torch.is_autocast_enabled(first.device.type):
        return function(*widen(inputs)).to(first.dtype)
    with torch.autocast(first.device.type, enabled=False):
        return function(*widen(inputs)).to(first.dtype)


def widen(inputs: tuple[Any, ...]) -> list[Any]:
    """The tensors among the inputs in float32 if they are float16 or bfloat16, everything else as it is."""
    return [
        value.float() if isinstance(value, torch.Tensor) and value.dtype in _LOW_PRECISION else value
        for value in inputs
    ]


def row_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself when its last dimension is dense, else a contiguous copy."""
    return tensor if tensor.stride()[-1] == 1 else tensor.contiguous()
