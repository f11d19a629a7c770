"""Benchmarks of the backbone, its scan and the GeoTIFF engine beside honest rivals.

`python tools/benchmark.py backbone --json speed.json`

Contestants run in turn, in one process; a speed is given only where the results of the same run agree with the naive
kernels, and the reference's way with ours. Exit code 1: some did not agree. Needs: pip install "dynamicvis[bench]".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from benchmarking import geotiff, models, operators, suites
from benchmarking.environment import describe_environment
from benchmarking.memory import memory
from benchmarking.plots import plot_report
from benchmarking.report import Report
from benchmarking.timing import BUDGET_RULE

from dynamicvis.backbone import VARIANTS

if TYPE_CHECKING:
    from rich.console import Console

DTYPES = ("float32", "float64", "float16", "bfloat16")
RULES = {
    "timing": BUDGET_RULE,
    "models": " ".join((models.__doc__ or "").split()),
    "memory": "Above the idle process, in a fresh process for every model and size.",
    "ceiling": "The states' exponentials and multiply-adds from the first-level cache, without memory, by the faster "
    "of two loops; the whole ceiling has those of softplus, skip connection and gate too: all of the operator's "
    "arithmetic.",
}
_FORWARD = ["nano", "small", "base", "base-dense", "base-reference", "resnet101", "vit-b-16"]
_TRAINED = ["nano", "base", "base-reference", "resnet18", "resnet101"]
_LARGEST = ["nano", "small", "base", "resnet101"]
_SIZES = ["128", "256", "512", "1024", "2048"]
# What `all` runs, as it would be typed.
PLAN = (
    ["scan"],
    ["backbone", "--models", *_FORWARD, "--sizes", *_SIZES],
    ["backbone", "--models", *_LARGEST, "--sizes", "4096"],
    ["train-step", "--models", *_TRAINED, "--sizes", "128", "256", "512"],
    ["length"],
    ["keep-ratio"],
    ["memory", "--models", *_LARGEST, "base-dense", "vit-b-16", "--sizes", "512", "1024", "2048"],
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        if options.benchmark == "geotiff":
            return geotiff.run(options, arguments)
        if options.benchmark in ("all", "plot"):
            models.require("matplotlib")  # asked for before the long run, not after it
        if options.benchmark == "plot":
            plot(options.json, options.out)
            return 0
        if options.device == "cuda" and not torch.cuda.is_available():
            parser.error("--device cuda: torch finds no CUDA device here; use --device cpu")
        console = models.require("rich.console").Console(width=None if sys.stdout.isatty() else 160)
    except (models.MissingPackageError, OSError, ValueError) as error:
        parser.error(str(error))
    report = Report(describe_environment(torch.device(options.device)), arguments, RULES)
    print_environment(report, console)
    if options.benchmark == "all":
        run_all(options, report, parser, console)
    else:
        run(options, report, console)
        if options.json is not None:
            report.write_json(options.json)
        if options.csv is not None:
            report.write_csv(options.csv)
    return int(report.disagrees)


def run_all(options: argparse.Namespace, report: Report, parser: argparse.ArgumentParser, console: Console) -> None:
    """Run the plan; the JSON is written after every part, so that an interrupted run leaves what it has."""
    path = options.out / "benchmark.json"
    options.out.mkdir(parents=True, exist_ok=True)
    for part in PLAN:
        shared = ["--device", options.device, "--budget", str(options.budget)]
        repeats = [] if part[0] == "memory" else ["--repeats", str(options.repeats)]
        run(parser.parse_args([*part, *shared, *repeats]), report, console)
        report.write_json(path)
    plot(path, options.out)


def run(options: argparse.Namespace, report: Report, console: Console) -> None:
    """Run one benchmark, add its rows to the report, print them."""
    if options.benchmark == "memory":
        report.rows += memory(options.device, options.dtype, options.models, options.sizes, options.budget)
    else:
        settings = suites.Settings(
            torch.device(options.device), getattr(torch, options.dtype), options.repeats, options.budget
        )
        if options.benchmark == "scan":
            report.rows += operators.scan(settings, options.lengths)
        elif options.benchmark == "length":
            rows, exponents = operators.length(settings, options.lengths)
            report.rows += rows
            report.exponents |= exponents
        elif options.benchmark == "backbone":
            report.rows += suites.backbone(settings, options.models, options.sizes)
        elif options.benchmark == "train-step":
            report.rows += suites.train_step(settings, options.models, options.sizes)
        else:
            report.rows += suites.keep_ratio(settings, options.variant, options.size)
    report.print_table(options.benchmark, console)


def plot(path: Path, folder: Path) -> None:
    """Draw the pictures of a report and print their paths; errors as `benchmarking.plots.plot_report`."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in plot_report(path, folder):
        print(picture)


def print_environment(report: Report, console: Console) -> None:
    """One line of hardware and versions, and the timing rule."""
    environment = report.environment
    state = f"{(environment['git_commit'] or 'no commit')[:12]}{', modified' if environment['git_dirty'] else ''}"
    console.print(
        f"{environment['cpu']} ({environment['cpu_architecture']}), {environment['cores']} cores, "
        f"{environment['threads']} threads, device {environment['device']}, torch {environment['packages']['torch']}, "
        f"{state}",
        highlight=False,
    )
    console.print(BUDGET_RULE, style="dim")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device.add_argument(
        "--budget", type=_positive(float), default=60.0, help="seconds per contestant and input (default: %(default)s)"
    )
    timed = argparse.ArgumentParser(add_help=False)
    timed.add_argument("--repeats", type=_positive(int), default=7, help="counted runs (default: %(default)s)")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--dtype", choices=DTYPES, default="float32")
    output.add_argument("--json", type=Path, help="file to write everything to")
    output.add_argument("--csv", type=Path, help="file to write the rows to")

    def add(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=parents)

    scan = add("scan", "the bidirectional selective scan alone", device, timed, output)
    scan.add_argument(
        "--lengths", nargs="+", type=_positive(int), default=[1024, 4096, 16384], help="tokens (default: %(default)s)"
    )
    for name, text, default, sizes in (
        ("backbone", "one forward over image sizes", _FORWARD[2:], [128, 256, 512, 1024]),
        ("train-step", "forward, gradient and optimizer step over image sizes", _TRAINED[1:], [128, 256, 512]),
        ("memory", "peak memory of one forward over image sizes", _FORWARD[2:], [128, 256, 512, 1024]),
    ):
        command = add(name, text, device, output, *([] if name == "memory" else [timed]))
        command.add_argument(
            "--models", nargs="+", choices=models.model_names(), metavar="MODEL", default=default, help=_models_help()
        )
        command.add_argument("--sizes", nargs="+", type=_size, default=sizes, help="image edges (default: %(default)s)")
    length = add("length", "cost of the mixer and of attention against sequence length", device, timed, output)
    length.add_argument(
        "--lengths",
        nargs="+",
        type=_positive(int),
        default=[1024, 2048, 4096, 8192, 16384, 32768],
        help="tokens (default: %(default)s)",
    )
    keep_ratio = add("keep-ratio", "one forward over keep ratios", device, timed, output)
    keep_ratio.add_argument("--variant", choices=VARIANTS, default="base")
    keep_ratio.add_argument("--size", type=_size, default=1024, help="image edge (default: %(default)s)")
    everything = add("all", "all of the above, to OUT/benchmark.json and pictures", device, timed)
    everything.add_argument("--out", type=Path, required=True, help="folder")
    plots = add("plot", "pictures of a JSON file, to OUT")
    plots.add_argument("json", type=Path)
    plots.add_argument("--out", type=Path, required=True, help="folder")
    geotiff.add_arguments(add("geotiff", "the GeoTIFF engine, each part to a JSON file"))
    return parser


def _models_help() -> str:
    baselines = ", ".join(models.BASELINES)
    return f"{', '.join(VARIANTS)}, these with {models.DENSE} or {models.REFERENCE}, {baselines} (default: %(default)s)"


def _positive(kind: type[int] | type[float]) -> type[int] | type[float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be positive, got {text}")
        return value

    parse.__name__ = kind.__name__
    return parse  # type: ignore[return-value]


def _size(text: str) -> int:
    size = int(text)
    if size < 1 or size % 32:
        raise argparse.ArgumentTypeError(f"must be a positive multiple of 32, got {text}")
    return size


if __name__ == "__main__":
    sys.exit(main())
