"""Evaluate a checkpoint on a config's test split: `python tools/test.py configs/TASK/CONFIG.py CHECKPOINT`."""

from __future__ import annotations

import argparse

from dynamicvis.mm.runner import add_run_arguments, test


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint of a run; averaged weights are used where it has them")
    add_run_arguments(parser)
    test(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
