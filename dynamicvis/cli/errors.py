"""What a user can cause ends in one sentence, not in a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn errors of input and output into ``Error: ...`` on stderr and exit code 1."""
    from dynamicvis.geo.errors import GeoError
    from dynamicvis.model_card import ModelFileError

    try:
        yield
    except (GeoError, ModelFileError, OSError) as error:
        raise click.ClickException(str(error)) from error
