"""Pretrain on regions from a config file: `python tools/pretrain.py configs/pretraining/CONFIG.py`.

Several processes: `torchrun --nproc-per-node 8 tools/pretrain.py configs/pretraining/CONFIG.py --launcher pytorch`,
each with the batch size of the config.
"""

from __future__ import annotations

from dynamicvis.mm.errors import reported_errors
from dynamicvis.mm.runner import train, training_parser


def main(arguments: list[str] | None = None) -> None:
    options = training_parser(__doc__).parse_args(arguments)
    with reported_errors():
        train(options)


if __name__ == "__main__":
    main()
