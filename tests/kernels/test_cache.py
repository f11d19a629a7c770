"""Compiled kernels on disk: kept, trusted, replaced when damaged, and never in the way of a run."""

from __future__ import annotations

import errno
import logging
import os
import pickle
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import pytest
import torch
from dynamicvis_kernels import _cache, _parallel
from dynamicvis_kernels._parallel import HEADER, Variant, store_parameter
from numba.core.ccallback import CFunc

ANSWER = 42


def make_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        store_parameter(p, HEADER, ANSWER)

    return kernel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where entries lie."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    _cache._warn_once.cache_clear()
    return tmp_path / f"dynamicvis_kernels-{os.geteuid()}"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each kernel that is compiled."""
    compiled: list[str] = []
    compile_uncached = CFunc._compile_uncached

    def count(self: CFunc) -> object:
        compiled.append(self.__name__)
        return compile_uncached(self)

    monkeypatch.setattr(CFunc, "_compile_uncached", count)
    return compiled


def run() -> None:
    """What a new process does: load the kernel or compile it, and run it."""
    kernel = _parallel._compile_kernel.__wrapped__(make_kernel, torch.float32)
    block = array("q", [0] * (HEADER + 1))
    kernel.ctypes(block.buffer_info()[0])
    assert block[HEADER] == ANSWER


def only_entry(folder: Path) -> Path:
    (entry,) = folder.iterdir()
    return entry


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_kernel_is_compiled_once(folder: Path, compilations: list[str]) -> None:
    run()
    run()
    assert len(compilations) == 1


@pytest.mark.parametrize(
    "damage",
    [lambda c: b"", lambda c: c[:20], lambda c: c[:-100], lambda c: bytes(len(c)), flip_a_bit, lambda c: c + b"x"],
    ids=["empty", "no checksum", "cut", "zeros", "one bit", "longer"],
)
def test_a_damaged_entry_is_written_anew(
    damage: Callable[[bytes], bytes], folder: Path, compilations: list[str]
) -> None:
    run()
    entry = only_entry(folder)
    content = entry.read_bytes()
    entry.write_bytes(damage(content))
    run()
    run()
    assert len(compilations) == 2
    assert len(only_entry(folder).read_bytes()) == len(content)


def test_another_kernels_entry_does_not_count(folder: Path, compilations: list[str]) -> None:
    run()
    entry = only_entry(folder)
    _parallel._compile_kernel.__wrapped__(make_kernel, torch.float64)
    (other,) = set(folder.iterdir()) - {entry}
    entry.write_bytes(other.read_bytes())
    run()
    assert len(compilations) == 3


def _poison(entry: Path, proof: Path) -> None:
    """Replace an entry by one that is whole, and writes a file when it is loaded."""

    class Payload:
        def __reduce__(self) -> tuple:
            return Path.touch, (proof,)

    cache = _cache.KernelCache(make_kernel(_parallel._LIKE[torch.float32]), "float32")
    label_of = cache._label
    labels: list[bytes] = []
    cache._label = lambda *arguments: labels.append(label_of(*arguments)) or labels[-1]  # type: ignore[method-assign]
    context = CFunc._targetdescr.target_context
    cache.load_overload(numba.core.typing.signature(numba.void, numba.int64), context)
    content = pickle.dumps(Payload())
    entry.write_bytes(cache._checksum(labels[-1], content) + content)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    "fault", ["owner of the file", "mode of the file", "owner of the folder", "mode of the folder"]
)
def test_what_others_could_have_written_is_not_loaded(
    fault: str, folder: Path, tmp_path: Path, compilations: list[str]
) -> None:
    run()
    entry = only_entry(folder)
    proof = tmp_path / "loaded"
    _poison(entry, proof)
    proof.unlink(missing_ok=True)
    target = entry if "file" in fault else folder
    if fault == "none":
        run()
        assert proof.exists(), "the entry is no proof of anything"
        return
    if "owner" in fault:
        os.chown(target, 65534, 65534)
    else:
        target.chmod(0o777)
    run()
    assert not proof.exists()
    assert len(compilations) == 2


def test_a_link_is_not_followed(folder: Path, tmp_path: Path, compilations: list[str]) -> None:
    run()
    entry = only_entry(folder)
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    run()
    assert len(compilations) == 2
    assert not only_entry(folder).is_symlink()


@pytest.mark.parametrize("reason", ["no space", "no folder", "a file in its place"])
def test_a_cache_that_cannot_be_written_is_one_warning(
    reason: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    compilations: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    if reason == "no space":

        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(_cache.Path, "replace", full)
    elif reason == "no folder":
        monkeypatch.setattr(numba.config, "CACHE_DIR", "/dev/null/cache")
    else:
        folder.write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="dynamicvis_kernels"):
        run()
        run()
    assert len(compilations) == 2
    (message,) = [record.getMessage() for record in caplog.records]
    assert "set NUMBA_CACHE_DIR to a folder of your own" in message
    if reason == "no space":
        assert os.strerror(errno.ENOSPC) in message
        assert not list(folder.iterdir())


def test_without_home_and_installation_the_kernels_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr(_cache, "_PACKAGE", Path("/dev/null"))
    _cache._shared_sources.cache_clear()
    monkeypatch.setattr(_cache, "_shared_sources", lambda: b"")
    run()


def test_users_who_share_a_cache_have_a_folder_each(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[str]
) -> None:
    run()
    monkeypatch.setattr(_cache, "_user", lambda: os.geteuid() + 1)
    monkeypatch.setattr(_cache, "_trusted_users", lambda: [os.geteuid() + 1])
    run()
    assert len(compilations) == 2
    assert only_entry(folder).exists()


def test_a_kernel_with_dynamic_globals_is_named(folder: Path) -> None:
    """Every process would compile it again, which the suite takes for an error."""
    import numpy as np

    table = np.arange(float(1 << 20))

    def make(variant: Variant) -> Callable[[int], None]:
        def kernel(p: int) -> None:
            store_parameter(p, HEADER, int(table[p & 1]))

        return kernel

    with pytest.raises(UserWarning, match="Cannot cache compiled function"):
        _parallel._compile_kernel.__wrapped__(make, torch.float32)


def test_threads_that_compile_at_once(folder: Path) -> None:
    """All get a kernel that runs, and one whole entry is left."""
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: run(), range(8)))
    only_entry(folder)
