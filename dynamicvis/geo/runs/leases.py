"""Who works on what, for processes that share nothing but a folder.

A lease is a file made by atomic creation; its holder renews its time stamp every `RENEWAL` seconds. That of a process
of this machine that has ended is free at once. Any other one is free when it was not renewed for `EXPIRY` seconds, also
when its process is there, stopped or waiting for a disk: who waits for it is told so before.

Whether a lease is renewed is what a waiting process sees with its own monotonic clock. The age by the clock of the file
system only shortens the wait for what was left long ago, down to `_LOOK` seconds, so that a clock that is set, or a
machine that sleeps, neither takes a lease from somebody who is at work nor keeps one for ever.

Two holders of one lease, as when a stopped process goes on, do no harm: all that is done under a lease is written
elsewhere and moved into place as a whole, with the same bytes whoever does it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicvis.files import listing

RENEWAL = 5.0  # seconds between two renewals
EXPIRY = 30.0  # seconds without renewal after which a holder counts as gone
_LOOK = 2.4 * RENEWAL  # seconds in which a holder that is at work is seen to renew
_POLL = 0.05  # seconds between two attempts at a lease that somebody holds for a moment
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_logger = logging.getLogger(__name__)
_now = time.monotonic
_rest = time.sleep


class Leases:
    """The leases of one process in one folder; renewed by a thread from the first one until `close`.

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
        self._seen: dict[Path, tuple[_Found, float]] = {}  # each lease, and since when it has been as it is
        self._named: set[str] = set()

    def acquire(self, name: str) -> bool:
        """Take the lease ``name`` if it is free, or its holder gone; never while the folder does not exist."""
        with self._lock:
            if name in self._held:
                return False
        path = self.folder / f"{name}.lease"
        try:
            if not self._create(path) and not self._take_over(path):
                return False
        except FileNotFoundError:
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
        found = _look(path)
        if found is not None and found.holder.get("token") == self.token:
            path.unlink(missing_ok=True)

    @contextmanager
    def waiting_for(self, name: str) -> Iterator[None]:
        """Hold a lease as soon as it can be had; the folder is made where it does not exist."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.acquire(name):
                break
            _rest(_POLL)
        try:
            yield
        finally:
            self.release(name)

    def others(self) -> bool:
        """Whether a process that is at work holds a lease here; takes seconds where one seems to have gone silent."""
        while True:
            silent = False
            for path in listing(self.folder, "*.lease"):
                found = _look(path)
                if found is None or found.holder.get("token") == self.token or self._is_gone(path, found):
                    continue
                if not self._may_be_silent(found):
                    return True
                silent = True
            if not silent:
                return False
            _rest(_POLL)

    def close(self) -> None:
        """Give all leases back."""
        self._closed.set()
        for name in list(self._held):
            self.release(name)

    def _create(self, path: Path) -> bool:
        content = json.dumps({"token": self.token, "host": _host(), "pid": os.getpid(), "started": _started("self")})
        # Linked into place, so that nobody sees a lease without its content.
        draft = self.folder / f".{self.token}-{threading.get_ident()}"
        try:
            draft.write_text(content)
            os.link(draft, path)
        except FileExistsError:
            # Also what a network file system answers whose first answer, that all went well, was lost.
            found = _look(path)
            return found is not None and found.holder.get("token") == self.token
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_link(path, content)
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _take_over(self, path: Path) -> bool:
        found = _look(path)
        if found is None:
            return self._create(path)
        if not self._is_gone(path, found):
            return False
        # One process at a time removes a lease that is not its own, so that it never is one that was just taken.
        lock = path.with_suffix(".eviction")
        if not self._create(lock):
            other = _look(lock)
            if other is not None and self._is_gone(lock, other):
                lock.unlink(missing_ok=True)
            return False
        try:
            now = _look(path)
            if now is not None and now.holder == found.holder:
                path.unlink(missing_ok=True)
                self._remove_drafts(found.holder)
            return self._create(path)
        finally:
            lock.unlink(missing_ok=True)

    def _is_gone(self, path: Path, found: _Found) -> bool:
        """Whether a holder has ended, or has not renewed its lease for so long that it counts as gone."""
        if _has_ended(found.holder):
            return True
        before, since = self._seen.get(path, (None, 0.0))
        now = _now()
        if before != found:
            self._seen[path] = found, now
            return False
        silence = now - since
        if silence <= _LOOK:
            return False
        age = self._age(found)
        self._name(found, EXPIRY - max(silence, age))
        return max(silence, age) > EXPIRY

    def _may_be_silent(self, found: _Found) -> bool:
        """Whether the time stamp of a lease is one that a holder who is at work would not have."""
        age = self._age(found)
        return age > EXPIRY or age < -EXPIRY

    def _age(self, found: _Found) -> float:
        """Seconds since the last renewal, by the clock of the file system, which all holders share."""
        clock = self.folder / f".{self.token}-clock"
        try:
            clock.touch()
            now = clock.stat().st_mtime
            clock.unlink(missing_ok=True)
        except FileNotFoundError:
            return 0.0
        return now - found.renewed

    def _name(self, found: _Found, left: float) -> None:
        """Tell, once, who is waited for."""
        holder = found.holder
        token = str(holder.get("token"))
        if token in self._named:
            return
        self._named.add(token)
        reason = "it may be stopped, its machine be down, or its disk hang"
        if holder.get("host") == _host() and _state(holder.get("pid", -1)) in ("T", "t"):
            reason = "it is stopped (Ctrl-Z or a debugger), `kill -CONT` and its number let it go on"
        _logger.warning(
            "waiting for process %s on %s, which has given no sign of life at its work in %s: %s; its part is taken "
            "over in %.0f s",
            holder.get("pid", "?"),
            str(holder.get("host", "an unknown machine")).partition("/")[0],
            self.folder,
            reason,
            max(left, 0),
        )

    def _remove_drafts(self, holder: dict[str, Any]) -> None:
        """Free the disk of what a process of this machine that has ended had in the making."""
        token = holder.get("token")
        if not _has_ended(holder) or not isinstance(token, str) or not token.isalnum():
            return
        for draft in self.folder.glob(f".{token}-*"):
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._closed.wait(RENEWAL):
            with self._lock:
                held = list(self._held)
            for name in held:
                path = self.folder / f"{name}.lease"
                with suppress(OSError):
                    found = _look(path)
                    if found is not None and found.holder.get("token") == self.token:
                        os.utime(path)


@dataclass(frozen=True)
class _Found:
    """A lease: who holds it (nothing, if its content was lost in a crash of the machine), and its time stamp."""

    holder: dict[str, Any]
    renewed: float


def _look(path: Path) -> _Found | None:
    try:
        # The stamp comes from the open file: a network file system looks it up anew then.
        with path.open() as file:
            renewed = os.fstat(file.fileno()).st_mtime
            text = file.read()
    except FileNotFoundError:
        return None
    try:
        holder = json.loads(text)
    except ValueError:
        holder = {}
    return _Found(holder if isinstance(holder, dict) else {}, renewed)


def _create_without_link(path: Path, content: str) -> bool:
    try:
        with path.open("x") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _host() -> str:
    """Names the machine and, where process numbers are not unique on it, the container."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def _started(pid: int | str) -> str | None:
    """When a process of this machine started; nothing for a zombie, None where the system does not show it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in ("Z", "X") else fields[19]


def _state(pid: int) -> str | None:
    """Linux's letter for what a process of this machine does; None where the system does not show it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether a holder is known to be a process of this machine that is no more."""
    return holder.get("host") == _host() and _is_alive(holder.get("pid", -1), holder.get("started")) is False


def _is_alive(pid: int, started: str | None) -> bool | None:
    """Whether a process of this machine is alive; None where the system does not tell."""
    if (now := _started(pid)) is not None:
        return now == started
    if os.name == "nt" or pid < 1:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return None
