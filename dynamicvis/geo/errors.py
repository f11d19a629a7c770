"""The error of this package that a user can cause and mend."""

from __future__ import annotations


class GeoError(ValueError):
    """Input or output that cannot be used; the message is one sentence naming the file and the way out."""


def describe_os_error(error: OSError) -> str:
    """The system's words and the file, without the error's number."""
    if error.strerror is None:
        return " ".join(str(error).split())
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
