"""The command line of data preparation, behind ``dynamicvis prepare``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

# Module of this package by name of the data set. Each has HELP, add_arguments(parser) and run(options), which returns
# one line for the user.
DATASETS = {
    "aid": "aid",
    "fmow": "fmow",
    "landsat-cd": "landsat_cd",
    "levir-ship": "levir_ship",
    "massachusetts-roads": "massachusetts_roads",
    "massachusetts-roads-windows": "massachusetts_roads_windows",
    "mosaics": "mosaics",
    "neon-trees": "neon_trees",
    "nwpu": "nwpu",
    "oam-buildings": "oam_buildings",
    "oscd": "oscd",
    "sen2ships": "sen2ships",
    "shards": "shards",
    "ssdd": "ssdd",
    "ucmerced": "ucmerced",
}


def prepare(arguments: Sequence[str]) -> str:
    """Prepare a data set.

    Args:
        arguments: its name and its options, as on the command line; ``--help`` among them ends the program.

    Returns:
        One line for the user.

    Raises:
        DynamicVisError: the original files or the target folder cannot be used.
        OSError: what the system refuses.
    """
    parser = argparse.ArgumentParser("dynamicvis prepare", description="Prepare a data set for training.")
    commands = parser.add_subparsers(dest="dataset", required=True, metavar="NAME")
    for name, module_name in DATASETS.items():
        module = import_module(f"dynamicvis.data.preparation.{module_name}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    return str(options.run(options))
