"""Which implementation runs an operator."""

from __future__ import annotations

import functools
import logging
import os

import torch

ENVIRONMENT_VARIABLE = "DYNAMICVIS_BACKEND"
_DEVICES = {"naive": ("cpu", "cuda"), "cpu": ("cpu",)}
_DTYPES = (torch.float32, torch.float64)
_logger = logging.getLogger("dynamicvis_kernels")


def choose_backend(device: torch.device) -> str:
    """Name of the implementation for tensors on ``device``: the forced one, else the device's compiled one.

    Raises:
        ValueError: the forced implementation is unknown or does not run on the device, or none does.
    """
    return _choose(device.type, os.environ.get(ENVIRONMENT_VARIABLE))


@functools.cache
def _choose(device: str, forced: str | None) -> str:
    if forced is None:
        if device != "cpu":
            raise ValueError(
                f"no compiled kernel for device type '{device}': move the model and its input to the CPU, "
                f"or set {ENVIRONMENT_VARIABLE}=naive (slow) to run in plain torch"
            )
        backend = "cpu"
    elif device not in _DEVICES.get(forced, ()):
        available = ", ".join(name for name, devices in _DEVICES.items() if device in devices) or "none"
        raise ValueError(
            f"{ENVIRONMENT_VARIABLE}={forced} has no kernel for device type '{device}'; available there: {available}"
        )
    else:
        backend = forced
    # A log call would break the graph that torch.compile traces.
    if not torch.compiler.is_compiling():
        _logger.debug("device type %s: %s kernels", device, backend)
    return backend


def check_tensors(operator: str, shapes: dict[str, tuple[torch.Tensor, tuple[int, ...]]]) -> None:
    """Check that all tensors have the expected shape and share one floating type and device.

    Raises:
        ValueError: names the operator, the argument, what was expected and what came.
    """
    first_name, (first, _) = next(iter(shapes.items()))
    if first.dtype not in _DTYPES:
        raise ValueError(f"{operator}: {first_name} must be float32 or float64, got {first.dtype}")
    for name, (tensor, shape) in shapes.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{operator}: {name} must have shape {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise ValueError(
                f"{operator}: {name} must be {first.dtype} on {first.device} like {first_name}, "
                f"got {tensor.dtype} on {tensor.device}"
            )


def row_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself when its last dimension is dense, else a contiguous copy."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
