"""Who works on what, for processes that share nothing but a folder.

A lease is a file made by atomic creation; its holder renews its time stamp. A lease of a process that is known to be
gone, or that was not renewed for a while, is taken over. Two holders of one lease are unlikely but do no harm: all that
is done under a lease is written elsewhere and moved into place as a whole, with the same bytes whoever does it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

RENEWAL = 5.0  # seconds between two renewals
EXPIRY = 60.0  # seconds without renewal after which a holder counts as gone


class Leases:
    """The leases of one process in one folder; renewed by a thread from `start` until `close`.

    Attributes:
        folder: where the files lie.
        token: names this holder among all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = uuid.uuid4().hex
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._renewer: threading.Thread | None = None

    def acquire(self, name: str) -> bool:
        """Take the lease ``name`` if it is free, or its holder gone."""
        path = self.folder / f"{name}.lease"
        if not self._create(path):
            found = _content(path)
            if found is None or not self._is_gone(path, found) or not self._evict(path, found):
                return False
            if not self._create(path):
                return False
        with self._lock:
            self._held.add(name)
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, daemon=True, name="dynamicvis-leases")
                self._renewer.start()
        return True

    def release(self, name: str) -> None:
        """Give a lease back."""
        with self._lock:
            self._held.discard(name)
        path = self.folder / f"{name}.lease"
        found = _content(path)
        if found is not None and found.get("token") == self.token:
            path.unlink(missing_ok=True)

    @contextmanager
    def waiting_for(self, name: str) -> Iterator[None]:
        """Hold a lease as soon as it can be had."""
        while not self.acquire(name):
            time.sleep(0.05)
        try:
            yield
        finally:
            self.release(name)

    def others(self) -> bool:
        """Whether a process that is not known to be gone holds a lease here."""
        for path in self.folder.glob("*.lease"):
            found = _content(path)
            if found is not None and found.get("token") != self.token and not self._is_gone(path, found):
                return True
        return False

    def close(self) -> None:
        """Give all leases back."""
        self._closed.set()
        for name in list(self._held):
            self.release(name)

    def _create(self, path: Path) -> bool:
        # Linked into place, so that nobody sees a lease without its content.
        draft = self.folder / f".{self.token}-{threading.get_ident()}"
        try:
            draft.write_text(json.dumps({"token": self.token, **_this_process()}))
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _is_gone(self, path: Path, holder: dict[str, Any]) -> bool:
        here = _this_process()
        if holder.get("host") == here["host"]:
            return _started(holder.get("pid", -1)) != holder.get("started")
        try:
            # The clock of the file system, which all holders share.
            clock = self.folder / f".{self.token}-clock"
            clock.touch()
            age = clock.stat().st_mtime - path.stat().st_mtime
            clock.unlink(missing_ok=True)
        except FileNotFoundError:
            return False
        return age > EXPIRY

    def _evict(self, path: Path, holder: dict[str, Any]) -> bool:
        moved = self.folder / f".{self.token}-evicted"
        try:
            path.rename(moved)
        except FileNotFoundError:
            return False
        found = _content(moved)
        if found != holder:
            # Somebody else was faster, and this is the lease of a living holder: it goes back.
            with suppress(FileExistsError):
                os.link(moved, path)
        moved.unlink(missing_ok=True)
        return found == holder

    def _renew(self) -> None:
        while not self._closed.wait(RENEWAL):
            with self._lock:
                held = list(self._held)
            for name in held:
                with suppress(OSError):
                    os.utime(self.folder / f"{name}.lease")


def _content(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _this_process() -> dict[str, Any]:
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


def _host() -> str:
    """Names the machine and, where process numbers are not unique on it, the container."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process of this machine started, None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return "alive"
    return "alive"
