"""Errors that a user can cause and mend, and what a user is told about them."""

from __future__ import annotations


class DynamicVisError(ValueError):
    """Base of all errors that a user can cause; the message is one sentence that names the thing and the way out."""


def explanation(error: BaseException) -> str | None:
    """One sentence for a user about an error.

    Returns:
        The message of a `DynamicVisError`, or the file and the system's words of an `OSError`; None for any other
        error, which is a fault of the program and keeps its traceback.
    """
    if isinstance(error, DynamicVisError):
        return str(error)
    if isinstance(error, OSError):
        if error.strerror is None:
            return " ".join(str(error).split())
        # Of two files it is the second that a user knows: the target of a draft.
        file = error.filename2 or error.filename
        return f"{file}: {error.strerror}" if file else error.strerror
    return None
