"""Prepare a data set: `python tools/prepare_data.py trees --out data/neon-trees`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dynamicvis.mm.neon_trees import DataSourceError, prepare_trees


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=["trees"], help="NEON tree crowns, from the data of the package deepforest")
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--source", type=Path, help="folder with the original files; default: the installed package")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    options = parser.parse_args(arguments)
    try:
        boxes = prepare_trees(options.out, options.source, options.overwrite)
    except (DataSourceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: boxes by split " + ", ".join(f"{split} {count}" for split, count in boxes.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
