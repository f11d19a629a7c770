"""Convert a checkpoint of the reference: the same as `dynamicvis convert`."""

from __future__ import annotations

import sys

from dynamicvis.cli.main import exit_code


def main(arguments: list[str] | None = None) -> int:
    return exit_code("convert", arguments)


if __name__ == "__main__":
    sys.exit(main())
