"""What a user can cause ends in one sentence, not in a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click


class Interrupted(click.ClickException):
    """Ctrl-C, with the exit code that shells give it."""

    exit_code = 130


@contextmanager
def reported_errors(interrupted: str | None = None) -> Iterator[None]:
    """Turn errors of input and output into ``Error: ...`` on stderr and exit code 1.

    Args:
        interrupted: what a user who presses Ctrl-C should know; click's own "Aborted!" if not given.
    """
    from dynamicvis.geo.errors import GeoError, describe_os_error
    from dynamicvis.model_card import ModelFileError
    from dynamicvis.text import shown

    try:
        yield
    except (GeoError, ModelFileError) as error:
        raise click.ClickException(shown(str(error))) from error
    except OSError as error:
        raise click.ClickException(shown(describe_os_error(error))) from error
    except KeyboardInterrupt as error:
        if interrupted is None:
            raise
        raise Interrupted(interrupted) from error
