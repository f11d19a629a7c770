"""Evaluate a checkpoint on a config's test split: `python tools/test.py configs/TASK/CONFIG.py CHECKPOINT`."""

from __future__ import annotations

import argparse
from pathlib import Path

from dynamicvis.mm.errors import reported_errors
from dynamicvis.mm.runner import add_run_arguments, test


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint of a run; averaged weights are used where it has them")
    parser.add_argument("--out", type=Path, help="new folder for the predictions and a sheet of pictures")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder of --out that was made so")
    parser.add_argument("--tta", action="store_true", help="merge what the model finds in every image and its flips")
    add_run_arguments(parser)
    options = parser.parse_args(arguments)
    if options.overwrite and options.out is None:
        parser.error("--overwrite is for the folder of --out")
    with reported_errors():
        test(options)


if __name__ == "__main__":
    main()
