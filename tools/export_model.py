"""Make a single-file model of a checkpoint: `python tools/export_model.py CONFIG CHECKPOINT -o FILE --name NAME`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dynamicvis.mm.export import export_model
from dynamicvis.model_card import ModelFileError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="config with a model_card dictionary")
    parser.add_argument(
        "checkpoint", type=Path, help="checkpoint of a run; averaged weights are used where it has them"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="file to write, replaced if it exists")
    parser.add_argument("--name", required=True, help="name of the model")
    parser.add_argument("--metrics", type=Path, help="metrics.json of tools/test.py")
    parser.add_argument("--score-threshold", type=float, help="instead of the one in the config")
    options = parser.parse_args(arguments)
    try:
        card = export_model(
            options.config,
            options.checkpoint,
            options.out,
            name=options.name,
            metrics=options.metrics,
            score_threshold=options.score_threshold,
        )
    except (ModelFileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: model '{card.name}', {options.out.stat().st_size / 1e6:.1f} MB, metrics {card.metrics}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
