"""Pretrain on regions from a config file: `python tools/pretrain.py configs/pretraining/CONFIG.py`.

Several processes: `torchrun --nproc-per-node 8 tools/pretrain.py configs/pretraining/CONFIG.py --launcher pytorch`,
each with the batch size of the config.
"""

from __future__ import annotations

import argparse

from dynamicvis.mm.errors import reported_errors
from dynamicvis.mm.runner import add_run_arguments, train


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue a run, from CHECKPOINT or from the last one in the work folder, to the same losses",
    )
    add_run_arguments(parser)
    options = parser.parse_args(arguments)
    with reported_errors():
        train(options)


if __name__ == "__main__":
    main()
