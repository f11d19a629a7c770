"""Make a single-file model of a checkpoint: the same as `dynamicvis export`."""

from __future__ import annotations

import sys

from dynamicvis.cli.main import exit_code


def main(arguments: list[str] | None = None) -> int:
    return exit_code("export", arguments)


if __name__ == "__main__":
    sys.exit(main())
