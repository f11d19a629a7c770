"""Errors that a user can cause; their messages are meant for the command line."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from dynamicvis.errors import DynamicVisError


class ConfigError(DynamicVisError):
    """A config that cannot do what was asked for; the message names what it lacks."""


class DivergedError(DynamicVisError):
    """A training whose loss or weights are no longer numbers; the message says where, and what is left."""


class PredictionError(DynamicVisError):
    """Predictions that cannot be written; the message names what stands in the way."""


# What a full, read-only or forbidden place answers.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ENTRY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn what a user can cause and mend into ``error: ...`` on stderr and exit code 1."""
    try:
        yield
    except DynamicVisError as error:
        raise SystemExit(f"error: {_sentence(error)}") from error
    except OSError as error:
        if error.errno == errno.ENOENT and error.filename is not None:
            raise SystemExit(f"error: {error.filename} does not exist; check the paths in the config") from error
        if error.errno not in _NO_ROOM | _NO_ENTRY:
            raise
        place = error.filename or "the work folder"
        mend = "make room on its disk" if error.errno in _NO_ROOM else "choose another --work-dir, or allow writing"
        raise SystemExit(f"error: cannot write {place} ({error.strerror}); {mend}") from error
    except ValueError as error:
        if not str(error).startswith(_ONE_VALUE):
            raise
        raise SystemExit(
            "error: a batch of one image cannot be normalised over the batch; set train_dataloader.drop_last=True "
            "where it is the last one of an epoch, or a larger train_dataloader.batch_size"
        ) from error


_ONE_VALUE = "Expected more than 1 value per channel when training"  # torch, of batch norm


def _sentence(error: Exception) -> str:
    """The message of an error, also of one that a loading worker sends with its traceback."""
    text = str(error)
    if re.match(r"Caught \w+ in DataLoader worker process", text):
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return text
