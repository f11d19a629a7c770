"""Leases: who holds them, and who may take them over. Time is that of the files, and is set, not waited for."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamicvis.geo.runs import leases as leases_module
from dynamicvis.geo.runs.leases import EXPIRY, Leases


@pytest.fixture
def mine(tmp_path: Path) -> Leases:
    return Leases(tmp_path)


class Clock:
    """A monotonic clock that moves when it is told to, and by a second when somebody rests."""

    def __init__(self) -> None:
        self.now = 0.0

    def rest(self, _: float) -> None:
        self.now += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases_module, "_now", lambda: clock.now)
    monkeypatch.setattr(leases_module, "_rest", clock.rest)
    return clock


@pytest.fixture
def dead() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_lease(folder: Path, name: str = "a", age: float = 0, **holder: Any) -> Path:
    path = folder / f"{name}.lease"
    content = {"token": "0ther", "host": leases_module._host(), "pid": os.getpid(), "started": "1"} | holder
    path.write_text(json.dumps(content))
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_holds_it_until_it_is_given_back(mine: Leases, tmp_path: Path) -> None:
    other = Leases(tmp_path)
    assert mine.acquire("a")
    assert not mine.acquire("a")
    assert not other.acquire("a")
    assert other.others()
    assert not mine.others()
    other.release("a")
    assert not other.acquire("a")
    mine.release("a")
    assert other.acquire("a")
    mine.close()
    assert names(tmp_path) == ["a.lease"]
    other.close()
    assert names(tmp_path) == []


def test_that_of_a_dead_process_of_this_machine_is_free_at_once(mine: Leases, tmp_path: Path, dead: int) -> None:
    write_lease(tmp_path, pid=dead)
    (tmp_path / ".0ther-half-made").write_text("what it was at")
    (tmp_path / ".0ther-outputs").mkdir()
    (tmp_path / ".another-half-made").write_text("of somebody else")
    assert not mine.others()
    assert mine.acquire("a")
    assert names(tmp_path) == [".another-half-made", "a.lease"]


def test_a_number_given_to_another_process_since_is_no_sign_of_life(mine: Leases, tmp_path: Path) -> None:
    write_lease(tmp_path, started="1")
    assert mine.acquire("a")


def test_a_zombie_holds_nothing(mine: Leases, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_lease(tmp_path, pid=process.pid, started=leases_module._started(process.pid))
    assert not mine.acquire("a")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # It has ended, and nobody has taken note.
    assert mine.acquire("a")
    process.communicate()


def test_that_of_another_machine_is_free_when_it_is_not_renewed(mine: Leases, tmp_path: Path, clock: Clock) -> None:
    write_lease(tmp_path, host="elsewhere", age=5)
    assert mine.others()
    assert not mine.acquire("a")
    clock.now += EXPIRY - 1
    assert not mine.acquire("a")
    (tmp_path / ".0ther-half-made").write_text("it may come back")
    clock.now += 2
    assert mine.acquire("a")
    assert names(tmp_path) == [".0ther-half-made", "a.lease"]


def test_what_was_left_long_ago_is_free_after_a_look(mine: Leases, tmp_path: Path, clock: Clock) -> None:
    write_lease(tmp_path, host="elsewhere", age=EXPIRY + 5)
    assert not mine.acquire("a")
    clock.now += 2 * leases_module.RENEWAL
    assert not mine.acquire("a")
    clock.now += leases_module.RENEWAL
    assert mine.acquire("a")
    other = Leases(tmp_path / "b")
    other.folder.mkdir()
    write_lease(other.folder, host="elsewhere", age=EXPIRY + 5)
    begun = clock.now
    assert not other.others()
    assert clock.now - begun < EXPIRY / 2


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_a_clock_that_is_set_neither_takes_nor_keeps_a_lease(
    mine: Leases, tmp_path: Path, clock: Clock, jump: float
) -> None:
    path = write_lease(tmp_path, host="elsewhere", age=jump)
    assert not mine.acquire("a")
    for _ in range(20):  # It is at work, and renews.
        clock.now += leases_module.RENEWAL
        path.touch()
        assert not mine.acquire("a")
    write_lease(tmp_path, host="elsewhere", age=jump)  # It is at work no more, and the clock is set again.
    assert not mine.acquire("a")
    clock.now += EXPIRY + 1
    assert mine.acquire("a")


def test_others_waits_where_a_time_stamp_says_nothing(
    mine: Leases, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lease(tmp_path, host="elsewhere", age=-7200)
    assert not mine.others()
    assert clock.now > EXPIRY

    def renew(seconds: float) -> None:
        clock.rest(seconds)
        path.touch()

    monkeypatch.setattr(leases_module, "_rest", renew)
    assert Leases(tmp_path).others()


def test_a_stopped_process_is_named_and_its_lease_taken_over(
    mine: Leases, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    write_lease(tmp_path, pid=process.pid, started=leases_module._started(process.pid))
    (tmp_path / ".0ther-half-made").write_text("it may come back")
    for _ in range(3):
        assert not mine.acquire("a")
        clock.now += leases_module.RENEWAL + 1.5
    assert not mine.acquire("a")
    (said,) = caplog.messages
    assert f"waiting for process {process.pid} on {socket.gethostname()}" in said
    assert "it is stopped (Ctrl-Z or a debugger)" in said
    assert "taken over in 1" in said
    clock.now += EXPIRY
    assert mine.acquire("a")
    assert len(caplog.messages) == 1
    assert names(tmp_path) == [".0ther-half-made", "a.lease"]
    process.kill()
    process.communicate()


def test_a_process_that_the_system_hides_counts_as_alive_while_it_renews(
    mine: Leases, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(leases_module, "_started", lambda pid: None)
    monkeypatch.setattr(leases_module.os, "kill", refuse)
    path = write_lease(tmp_path)
    for _ in range(20):
        clock.now += leases_module.RENEWAL
        path.touch()
        assert not mine.acquire("a")
    clock.now += EXPIRY + 1
    assert mine.acquire("a")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_one_whose_content_was_lost_expires(mine: Leases, tmp_path: Path, clock: Clock, content: str) -> None:
    (tmp_path / "a.lease").write_text(content)
    assert not mine.acquire("a")
    clock.now += EXPIRY + 1
    assert mine.acquire("a")
    assert names(tmp_path) == ["a.lease"]


def test_renewal_moves_the_time_stamp(mine: Leases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = threading.Event()
    monkeypatch.setattr(leases_module, "RENEWAL", 0.001)
    monkeypatch.setattr(leases_module.os, "utime", lambda path: renewed.set())
    assert mine.acquire("a")
    assert renewed.wait(30)
    # Once it is another's, it is not renewed: this process may have been stopped for long.
    (tmp_path / "a.lease").write_text('{"token": "0ther"}')
    for _ in range(2):  # The first may have been on its way.
        renewed.clear()
        late = renewed.wait(0.05)
    assert not late
    mine.close()


def test_of_many_that_find_a_dead_holder_one_gets_it(tmp_path: Path, dead: int) -> None:
    for attempt in range(20):
        write_lease(tmp_path, name=str(attempt), pid=dead)
        contenders = [Leases(tmp_path) for _ in range(8)]
        start = threading.Barrier(len(contenders))
        got = []

        def take(
            leases: Leases, name: str = str(attempt), start: threading.Barrier = start, got: list[str] = got
        ) -> None:
            start.wait()
            if leases.acquire(name):
                got.append(leases.token)

        threads = [threading.Thread(target=take, args=(leases,)) for leases in contenders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        assert json.loads((tmp_path / f"{attempt}.lease").read_text())["token"] == got[0]
        for leases in contenders:
            leases.close()
    assert names(tmp_path) == []


def test_one_that_died_while_it_took_over_does_not_block(mine: Leases, tmp_path: Path, dead: int) -> None:
    write_lease(tmp_path, pid=dead)
    write_lease(tmp_path, pid=dead).rename(tmp_path / "a.eviction")
    write_lease(tmp_path, pid=dead)
    assert not mine.acquire("a")
    assert mine.acquire("a")
    assert names(tmp_path) == ["a.lease"]


def test_the_lease_of_a_successor_is_not_given_back(mine: Leases, tmp_path: Path) -> None:
    assert mine.acquire("a")
    write_lease(tmp_path)
    mine.release("a")
    assert names(tmp_path) == ["a.lease"]


def test_without_a_folder_there_is_none(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "gone")
    assert not leases.acquire("a")
    assert not leases.others()
    leases.release("a")
    leases.close()


def failing_link(error: int) -> Callable[..., None]:
    def link(*_: Any) -> None:
        raise OSError(error, os.strerror(error))

    return link


def test_a_disk_without_links(mine: Leases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module.os, "link", failing_link(errno.EPERM))
    assert mine.acquire("a")
    assert not Leases(tmp_path).acquire("a")
    mine.close()
    assert names(tmp_path) == []
    monkeypatch.setattr(leases_module.os, "link", failing_link(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        mine.acquire("a")


def test_an_answer_of_a_network_file_system_that_was_lost(
    mine: Leases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(leases_module.os, "link", twice)
    assert mine.acquire("a")


def test_waiting_for_one_makes_the_folder_again(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "a" / "b")
    with leases.waiting_for("guard"):
        assert names(tmp_path / "a" / "b") == ["guard.lease"]
    assert names(tmp_path / "a" / "b") == []
