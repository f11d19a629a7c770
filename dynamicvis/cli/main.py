"""The command group; each command is a thin skin over one library function."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from dynamicvis.cli.info import info
from dynamicvis.cli.models import models
from dynamicvis.cli.predict import change, embed, predict
from dynamicvis.cli.training import convert, export, prepare
from dynamicvis.files import occupy_standard_streams


@click.group(name="dynamicvis", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dynamicvis", prog_name="dynamicvis")
def dynamicvis() -> None:
    """Find things in aerial and satellite imagery: GeoTIFF in, a map out."""
    occupy_standard_streams()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by ``2>&-``
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    # A name that the terminal's encoding does not have must not end a run that has written its files.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


for command in (change, convert, embed, export, info, models, predict, prepare):
    dynamicvis.add_command(command)


def exit_code(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one command of the group, as the script of its name does, and return the program's exit code.

    Args:
        name: of the command.
        arguments: after the command's name; those of the program if not given.
    """
    try:
        dynamicvis.main([name, *(sys.argv[1:] if arguments is None else arguments)], prog_name="dynamicvis")
    except SystemExit as end:
        return int(end.code or 0)
