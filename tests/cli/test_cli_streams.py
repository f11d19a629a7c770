"""Signals to end, and standard streams that are closed or that nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from dynamicvis.cli.errors import reported_errors

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, text=True, timeout=120, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_says_how_to_go_on(number: signal.Signals) -> None:
    # A library that an earlier test has started may handle the signal, as Ray does.
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)
    cleaned = []

    def work() -> None:
        with reported_errors("goes on from there"):
            try:
                signal.raise_signal(number)
            finally:
                cleaned.append(True)

    try:
        with pytest.raises(click.ClickException, match="goes on from there") as caught:
            work()
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)
    assert caught.value.exit_code == 128 + number
    assert cleaned


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with reported_errors("goes on"):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_at_once() -> None:
    code = """
import signal
from dynamicvis.cli.errors import reported_errors
with reported_errors("goes on from there"):
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGTERM)  # while what is at work is left
        print("never")
"""
    ended = python(code, capture_output=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", "Error: goes on from there\n")


def test_a_reader_that_goes_away_does_not_end_a_run(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from dynamicvis.cli.running import say
for number in range(3):
    say("line")
    say("note", err=True)
Path({str(tmp_path / "done")!r}).write_text("done")
"""
    read, write = os.pipe()
    os.close(read)
    ended = python(code, stdout=write, stderr=write)
    os.close(write)
    assert ended.returncode == 0
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_standard_output_that_is_full_is_named() -> None:
    code = """
import click
from dynamicvis.cli.running import say
try:
    say("line")
except click.ClickException as error:
    say(error.message, err=True)
    import os; os._exit(1)
"""
    with Path("/dev/full").open("w") as full:
        ended = python(code, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr.startswith("standard output cannot be written to (No space left on device)")


def test_closed_streams_do_not_lend_their_numbers_to_files(tmp_path: Path) -> None:
    code = f"""
import os
from dynamicvis.cli.main import dynamicvis
assert not dynamicvis.main(["models", "--json"], standalone_mode=False)
with open({str(tmp_path / "file")!r}, "w") as file:
    file.write(str(file.fileno()))
os.write(2, b"what a library prints")
"""
    closed = 'exec "$0" -c "$1" 2>&- >&- <&-'
    assert subprocess.run(["sh", "-c", closed, sys.executable, code], env=ENVIRONMENT, timeout=120).returncode == 0
    assert int((tmp_path / "file").read_text()) > 2
