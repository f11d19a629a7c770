"""Bounds on what a config from a file makes OpenMMLab do while it builds a model."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

_SPARE_VALUES = 1 << 26  # tensors of a model that are not weights, and what is computed for them
_SPARE_MODULES = 1000
_registered_only: ContextVar[bool] = ContextVar("registered_only", default=False)


@contextmanager
def registered_only() -> Iterator[None]:
    """Inside, a name that no registry has is not looked for among Python's modules, which would import them.

    Holds for this thread, or task, alone.
    """
    module = import_module("mmengine.registry.registry")
    lookup = getattr(module, "get_object_from_string", None)
    if lookup is not None and not isinstance(lookup, _Lookup):
        module.get_object_from_string = _Lookup(lookup)  # type: ignore[attr-defined]
    token = _registered_only.set(True)
    try:
        yield
    finally:
        _registered_only.reset(token)


class _Lookup:
    """MMEngine's look-up of objects by dotted names, which finds nothing inside `registered_only`."""

    def __init__(self, lookup: Callable[[str], Any]) -> None:
        self._lookup = lookup

    def __call__(self, name: str) -> Any:
        return None if _registered_only.get() else self._lookup(name)


@contextmanager
def bounded_by(shapes: Sequence[Sequence[int]]) -> Iterator[None]:
    """Inside, this thread builds no model that is far larger than the weights it is for.

    Args:
        shapes: of the weights.

    Raises:
        ValueError: from the code inside, when it would take more memory or modules than such a model can need.
    """
    thread, modules = threading.get_ident(), [_SPARE_MODULES + 20 * len(shapes)]

    def count(*_: Any) -> None:
        if threading.get_ident() == thread:
            modules[0] -= 1
            if modules[0] < 0:
                raise ValueError("it has far more parts than the file has weights for")

    hook = register_module_module_registration_hook(count)
    try:
        with _Bounded(_SPARE_VALUES + 8 * sum(map(math.prod, shapes))):
            yield
    finally:
        hook.remove()


class _Bounded(TorchDispatchMode):
    """Refuses operators whose results together have more than a number of values, before they are computed."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self._left = values

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        if not name.endswith("_"):
            self._left -= _size(name, args, kwargs or {})
            if self._left < 0:
                raise ValueError("it is far larger than the weights in the file")
        return function(*args, **(kwargs or {}))


def _size(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Number of values that an operator makes, at least; of views, 0."""
    operator = name.rpartition("::")[2]
    if operator in _BY_SIZE:
        sizes = kwargs.get("size") or next((value for value in args if isinstance(value, list | tuple)), ())
        return math.prod(_numbers(sizes))
    if operator == "arange":
        start, end = (0, args[0]) if len(args) == 1 else args[:2]
        return math.ceil(abs(end - start) / abs(args[2] if len(args) > 2 else 1))
    if operator in ("linspace", "logspace"):
        return int(args[2])
    if operator == "eye":
        return math.prod(_numbers(args[:2] if len(args) > 1 else (args[0], args[0])))
    if operator == "repeat":
        return args[0].numel() * math.prod(_numbers(args[1]))
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    if args and isinstance(args[0], list | tuple):  # cat, stack, meshgrid
        return sum(value.numel() for value in args[0] if isinstance(value, torch.Tensor))
    if len(tensors) > 1:
        try:
            return math.prod(torch.broadcast_shapes(*(value.shape for value in tensors)))
        except RuntimeError:  # operators that do not broadcast
            return 0
    return 0


_BY_SIZE = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "new_")
    for name in ("empty", "empty_strided", "full", "ones", "rand", "randint", "randn", "zeros")
)


def _numbers(values: Any) -> list[int]:
    return [int(value) for value in values if isinstance(value, int | float)]
