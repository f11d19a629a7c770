"""Convert a checkpoint of the reference: `python tools/convert_checkpoint.py IN OUT`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dynamicvis.checkpoint import CheckpointError
from dynamicvis.conversion import convert_reference


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="IN", type=Path, help="checkpoint of the reference, .pth or .safetensors")
    parser.add_argument("out", metavar="OUT", type=Path, help=".pth or .safetensors to write, replaced if it exists")
    options = parser.parse_args(arguments)
    try:
        print(convert_reference(options.source, options.out))
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
