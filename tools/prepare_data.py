"""Prepare a data set: `python tools/prepare_data.py trees --out data/neon-trees`; `NAME --help` says what it takes."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from dynamicvis.data.preparation.folder import DataSourceError
from dynamicvis.data.raster import DataError

# Module of dynamicvis.data.preparation by name of the data set. Each has HELP, add_arguments(parser) and
# run(options), which returns one line for the user.
DATASETS = {
    "aid": "aid",
    "fmow": "fmow",
    "landsat-cd": "landsat_cd",
    "levir-ship": "levir_ship",
    "mass-roads": "road_windows",
    "massachusetts-roads": "massachusetts_roads",
    "mosaics": "mosaics",
    "nwpu": "nwpu",
    "oam-buildings": "oam_buildings",
    "oscd": "oscd",
    "sen2ships": "sen2ships",
    "shards": "shards",
    "ssdd": "ssdd",
    "trees": "neon_trees",
    "ucmerced": "ucmerced",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="dataset", required=True, metavar="NAME")
    for name, module_name in DATASETS.items():
        module = import_module(f"dynamicvis.data.preparation.{module_name}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        print(options.run(options))
    except (DataSourceError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
