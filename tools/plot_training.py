"""Plot training runs: `python tools/plot_training.py nano=work_dirs/nano/scalars.json ... -o curve.png`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

from dynamicvis.files import read_text

# Okabe and Ito's palette: distinguishable with every kind of colour vision.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=SCALARS.json", help="a run's scalars as MMEngine writes them")
    parser.add_argument("-o", "--out", required=True, type=Path, help="PNG to write")
    parser.add_argument("--metric", default="boxes/best_f1", help="validation metric (default: %(default)s)")
    options = parser.parse_args(arguments)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for run, color in zip(options.runs, _COLORS, strict=False):
        name, _, path = run.partition("=")
        records = [json.loads(line) for line in read_text(path).splitlines()]
        losses = [(record["iter"], record["loss"]) for record in records if "loss" in record]
        metrics = [(record["step"], record[options.metric]) for record in records if options.metric in record]
        left.plot(*zip(*losses, strict=True), color=color, label=name)
        right.plot(*zip(*metrics, strict=True), color=color, marker="o", label=name)
    left.set(xlabel="iteration", ylabel="training loss", ylim=(0, None))
    right.set(xlabel="epoch", ylabel=f"{options.metric} on the validation split", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
