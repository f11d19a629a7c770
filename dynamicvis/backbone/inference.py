"""Which modules are as they were built, so that a forward may read their weights instead of calling them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from dynamicvis_kernels._backend import PLAIN_TYPES
from torch import nn
from torch.nn.modules import module as torch_module


def _with(module: nn.Module, name: str) -> bool:
    return module._parameters.get(name) is not None


def _is_depthwise(convolution: nn.Conv1d) -> bool:
    return (
        _with(convolution, "bias")
        and convolution.groups == convolution.in_channels == convolution.out_channels
        and convolution.stride == convolution.dilation == (1,)
        and convolution.padding == (0,)
    )


_AS_BUILT: dict[type[nn.Module], Callable[[Any], bool] | None] = {
    nn.Linear: lambda linear: _with(linear, "weight"),
    nn.Conv1d: _is_depthwise,
    nn.Conv2d: None,  # always called
    nn.LayerNorm: lambda norm: _with(norm, "weight") and _with(norm, "bias"),
    nn.RMSNorm: lambda norm: _with(norm, "weight") and norm.eps is not None,
    nn.ModuleList: None,
}


# A library may replace what all modules of a kind do.
_FORWARDS = [(kind, kind.forward) for kind in (nn.Linear, nn.Conv1d, nn.LayerNorm, nn.RMSNorm)]


def register_as_built(kind: type[nn.Module], check: Callable[[Any], bool] | None) -> None:
    """Say when a module of the backbone's own is as built, its children's types aside; None for always."""
    _AS_BUILT[kind] = check


def is_as_built(module: nn.Module) -> bool:
    """Whether calling a module does what the backbone would do with its weights.

    An adapter, a parametrization, a hook, a quantized layer, a missing weight: then the module must see itself called.
    """
    kind = type(module)
    if kind not in _AS_BUILT:
        return False
    check = _AS_BUILT[kind]
    return (
        not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        and "forward" not in module.__dict__
        and (check is None or check(module))
    )


def all_as_built(roots: Iterable[nn.Module], images: torch.Tensor) -> bool:
    """Whether all modules below the roots are as built, with plain weights of the images' type and on the CPU.

    Raises:
        ValueError: a weight has no memory yet: torch would take whatever stands elsewhere.
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return False
    if any(kind.forward is not forward for kind, forward in _FORWARDS):
        return False
    dtype = images.dtype
    modules: list[nn.Module | None] = list(roots)
    while modules:
        module = modules.pop()
        if module is None:
            continue
        if not is_as_built(module):
            return False
        for weight in module._parameters.values():
            if weight is not None and (
                weight.dtype is not dtype
                or not weight.is_cpu
                or type(weight) not in PLAIN_TYPES
                or weight.layout is not torch.strided
            ):
                check_materialized(weight)
                return False
        modules += module._modules.values()
    return True


def check_materialized(weight: torch.Tensor) -> None:
    """Refuse a weight on the device ``meta``.

    Raises:
        ValueError: it is.
    """
    if weight.is_meta:
        raise ValueError(
            "the backbone has weights on the device meta, which hold no numbers: call to_empty(device=...) and then "
            "load its weights"
        )


def check_floating(name: str, tensor: torch.Tensor) -> None:
    """Refuse a type from which torch would convert without a word.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is not floating point.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
