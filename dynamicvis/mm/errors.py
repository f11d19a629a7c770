"""Errors that a user can cause; their messages are meant for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dynamicvis.checkpoint import CheckpointError
from dynamicvis.data.preparation.folder import DataSourceError
from dynamicvis.data.raster import DataError


class ConfigError(RuntimeError):
    """A config that cannot do what was asked for; the message names what it lacks."""


class PredictionError(RuntimeError):
    """Predictions that cannot be written; the message names what stands in the way."""


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn what a user can cause and mend into ``error: ...`` on stderr and exit code 1."""
    from dynamicvis.pretraining.embeddings import EmbeddingFileError  # loads torchvision

    try:
        yield
    except (CheckpointError, ConfigError, DataError, DataSourceError, EmbeddingFileError, PredictionError) as error:
        raise SystemExit(f"error: {error}") from error
