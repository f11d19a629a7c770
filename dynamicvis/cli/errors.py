"""What a user can cause ends in one sentence, not in a traceback."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(click.ClickException):
    """Ctrl-C or another signal to end, with the exit code that shells give it."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number  # type: ignore[misc]


class _Signal(KeyboardInterrupt):
    """A signal to end, in the main thread."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _ended_by_signals(message: str) -> Iterator[None]:
    """Make signals to end raise, so that what is at work is left in order; a second one ends the process at once.

    A signal that is ignored (``nohup``) or that somebody else handles stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []

    def end(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise _Signal(number)
        with suppress(OSError):
            os.write(2, f"Error: {message}\n".encode())
        os._exit(128 + number)

    before = {number: signal.getsignal(number) for number in _ENDING}
    ours = [number for number in _ENDING if before[number] in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def reported_errors(interrupted: str | None = None) -> Iterator[None]:
    """Turn errors of input and output into ``Error: ...`` on stderr and exit code 1.

    Args:
        interrupted: what a user who presses Ctrl-C should know, or whose process is told to end (SIGTERM, SIGHUP);
            click's own "Aborted!" if not given.
    """
    from dynamicvis.errors import DynamicVisError, explanation
    from dynamicvis.text import shown

    try:
        if interrupted is None:
            yield
        else:
            with _ended_by_signals(interrupted):
                yield
    except BrokenPipeError:
        raise  # Nobody reads on (``| head``): click ends without a word.
    except (DynamicVisError, OSError) as error:
        raise click.ClickException(shown(explanation(error) or "")) from error
    except KeyboardInterrupt as error:
        if interrupted is None:
            raise
        raise Interrupted(interrupted, getattr(error, "number", signal.SIGINT)) from error
