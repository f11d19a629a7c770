"""The command group; each command is a thin skin over one library function."""

from __future__ import annotations

import click

from dynamicvis.cli.info import info
from dynamicvis.cli.models import models
from dynamicvis.cli.predict import change, embed, predict


@click.group(name="dynamicvis", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dynamicvis", prog_name="dynamicvis")
def dynamicvis() -> None:
    """Find things in aerial and satellite imagery: GeoTIFF in, a map out."""


dynamicvis.add_command(change)
dynamicvis.add_command(embed)
dynamicvis.add_command(info)
dynamicvis.add_command(models)
dynamicvis.add_command(predict)
