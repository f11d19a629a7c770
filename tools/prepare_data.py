"""Prepare a data set: the same as `dynamicvis prepare`."""

from __future__ import annotations

import sys

from dynamicvis.cli.main import exit_code


def main(arguments: list[str] | None = None) -> int:
    return exit_code("prepare", arguments)


if __name__ == "__main__":
    sys.exit(main())
