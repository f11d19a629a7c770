"""Compiled CPU kernels kept on disk, so that a later process need not compile them again.

An entry is one file: a checksum, then what numba makes of a compiled function. The checksum covers the kernel's sources
and the processor too, so that an entry that is damaged, outdated or another kernel's does not count, and is written
anew. Entries are code: one counts only if this user, root, or the owner of this package's own code owns it and its
folder, and nobody else may write to either. What cannot be read or written costs time, never the run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import logging
import os
import pickle
import stat
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

_SHARED_SOURCES = ("_parallel.py", "_simd.py", "_exponentials.py")
_PACKAGE = Path(__file__).parent
_DIGEST_SIZE = hashlib.sha256().digest_size
_logger = logging.getLogger("dynamicvis_kernels")


class KernelCache(NullCache):
    """The entry of one kernel, as numba asks for it and gives it.

    Args:
        kernel: the function that is compiled.
        kind: what else decides the code: the name of the type that it computes in.
    """

    def __init__(self, kernel: Callable[..., Any], kind: str) -> None:
        source = Path(inspect.getfile(kernel))
        self._name = f"{source.parent.name}.{source.stem}.{kernel.__qualname__.split('.')[0]}-{kind}"
        self._place = (str(source), kernel.__qualname__, kind)
        self._sources = hashlib.sha256(source.read_bytes() + _shared_sources()).digest()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel, or None."""
        target_context.refresh()
        label = self._label(sig, target_context.codegen())
        for folder in _folders():
            for owner in _trusted_users():
                entry = _read_trusted(folder / _leaf(owner), self._file_name(label))
                if entry is None or entry[:_DIGEST_SIZE] != self._checksum(label, entry[_DIGEST_SIZE:]):
                    continue
                # An entry that another build of numba or Python wrote under the same version.
                with contextlib.suppress(Exception):
                    return CompileResult._rebuild(target_context, *pickle.loads(entry[_DIGEST_SIZE:]))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled kernel in the first folder that takes it."""
        if data.library.has_dynamic_globals:
            # The words of numba, whose own cache says so.
            warnings.warn(f'Cannot cache compiled function "{self._name}" as it uses dynamic globals', stacklevel=2)
            return
        label = self._label(sig, data.codegen)
        content = dumps(data._reduce())
        content = self._checksum(label, content) + content
        reasons = []
        for folder in _folders():
            try:
                _write_trusted(folder / _leaf(_user()), self._file_name(label), content)
                return
            except OSError as error:
                reasons.append(f"{folder}: {error.strerror or error}")
        _warn_once("; ".join(reasons) or "there is no home folder")

    def _label(self, sig: Any, codegen: Any) -> bytes:
        versions = (numba.__version__, llvmlite.__version__, sys.version)
        return repr((*self._place, str(sig), codegen.magic_tuple(), versions)).encode()

    def _file_name(self, label: bytes) -> str:
        return f"{self._name}.{hashlib.sha256(label).hexdigest()[:16]}.kernel"

    def _checksum(self, label: bytes, content: bytes) -> bytes:
        return hashlib.sha256(hashlib.sha256(label).digest() + self._sources + content).digest()


@functools.cache
def _shared_sources() -> bytes:
    """The code that the kernels share."""
    return b"".join((_PACKAGE / name).read_bytes() for name in _SHARED_SOURCES)


@functools.cache
def _warn_once(reasons: str) -> None:
    _logger.warning(
        "compiled kernels cannot be kept, so every process compiles them (seconds); "
        "set NUMBA_CACHE_DIR to a folder of your own that has room (%s)",
        reasons,
    )


def _folders() -> Iterator[Path]:
    """Where entries may lie, the best first: the user's choice alone, or beside the code, or in the home folder."""
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR)
        return
    yield _PACKAGE / "__pycache__"
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen:
        yield Path(chosen) / "dynamicvis"
        return
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield Path.home() / ".cache" / "dynamicvis"


def _leaf(user: int) -> str:
    """Name of a user's own folder, so that users who share a cache do not meet."""
    return f"dynamicvis_kernels-{user}"


def _user() -> int:
    return os.geteuid() if os.name == "posix" else 0


@functools.cache
def _package_owner() -> int:
    """Owner of this package's code: that user's code runs here already."""
    return Path(__file__).stat().st_uid


def _trusted_users() -> list[int]:
    return list(dict.fromkeys((_user(), 0, _package_owner())))


def _is_trusted(status: os.stat_result, kind: Callable[[int], bool]) -> bool:
    """Whether a file or folder is of the kind, and only trusted users can have written it."""
    if os.name != "posix":
        return kind(status.st_mode)
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return kind(status.st_mode) and status.st_uid in _trusted_users() and not others


def _read_trusted(folder: Path, name: str) -> bytes | None:
    """Content of a file, or None if there is none, it cannot be read, or it is not to be trusted."""
    try:
        if not _is_trusted(folder.lstat(), stat.S_ISDIR):
            return None
        descriptor = os.open(folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            return file.read() if _is_trusted(os.fstat(file.fileno()), stat.S_ISREG) else None
    except OSError:
        return None


def _write_trusted(folder: Path, name: str, content: bytes) -> None:
    """Write a file that is whole or absent.

    Raises:
        OSError: it cannot be written, or others could write to it where it lies.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o755)
    if not _is_trusted(folder.lstat(), stat.S_ISDIR):
        raise PermissionError(f"{folder.name} is another user's, or others may write to it")
    beside = folder / f".{name}.{uuid.uuid4().hex}"
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(content)
        beside.replace(folder / name)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
