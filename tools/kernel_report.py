"""Compile every Triton kernel at the backbone's shapes and model its time: `python tools/kernel_report.py`.

No GPU is needed and nothing is timed. The tables go between the markers of kernels/README.md; `--json FILE` takes one
entry per kernel, shape and target. Exit code 1 where a kernel spills registers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "kernels" / "README.md"
BEGIN, END = "<!-- report:begin -->", "<!-- report:end -->"
TARGETS = ("sm_80", "sm_90", "gfx942", "gfx1100")


def insert_report(text: str, tables: str) -> str:
    """The README with its part between the markers replaced.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README needs the lines {BEGIN} and {END}, with the tables between them")
    return f"{before}{begin}\n\n{tables}\n\n{end}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS, help="default: all")
    parser.add_argument("--variants", nargs="+", default=["base", "large"], help="backbones (default: base large)")
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 2048], help="image edges (default: 512 2048)")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers (default: the kernels')")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("triton") is None:
        print("kernel_report: Triton is not installed: pip install triton", file=sys.stderr)
        return 1
    if changing := [name for name in ("TRITON_INTERPRET", "DYNAMICVIS_BACKEND") if name in os.environ]:
        print(f"kernel_report: unset {' and '.join(changing)}: other kernels would run", file=sys.stderr)
        return 1
    from kernel_model.report import build_report, spilling, to_json, to_markdown

    report = build_report(options.variants, options.sizes, options.targets)
    if options.json is not None:
        options.json.write_text(json.dumps(to_json(report), indent=1) + "\n")
    options.readme.write_text(insert_report(options.readme.read_text(), to_markdown(report)))
    spills = spilling(report)
    print("\n".join(f"spills: {spill}" for spill in spills) or "spills: none on any target")
    return 1 if spills else 0


if __name__ == "__main__":
    sys.exit(main())
