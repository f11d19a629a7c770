"""Functions compiled by numba, whose code is kept as that of the kernels is."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from numba import njit

_CACHE = "dynamicvis_kernels._cache"


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, or load what an earlier process compiled; it releases the interpreter lock.

    A cache that is damaged, full, or cannot be written costs the time of compiling, never the run.
    """
    dispatcher = njit(nogil=True)(function)
    dispatcher._cache = _kernel_cache().KernelCache(function, "any")  # numba would take its own cache
    return dispatcher


def _kernel_cache() -> ModuleType:
    """The kernels' cache without the package around it, which imports torch: `map_raster` never needs that."""
    if _CACHE not in sys.modules:
        package = importlib.util.find_spec("dynamicvis_kernels")
        assert package is not None
        assert package.origin is not None
        spec = importlib.util.spec_from_file_location(_CACHE, Path(package.origin).with_name("_cache.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[_CACHE] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[_CACHE])
    return sys.modules[_CACHE]
