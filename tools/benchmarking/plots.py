"""Pictures of a report: cost against image size, keep ratio and sequence length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarking.models import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: distinguishable with every kind of colour vision; markers tell the lines apart without any.
_STYLES = (
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#000000", "v"),
    ("#e69f00", "P"),
    ("#56b4e9", "X"),
)
_Rows = Sequence[dict[str, Any]]


def plot_report(path: Path, folder: Path) -> list[Path]:
    """Draw what a report holds: ``benchmark_size.png`` (seconds and memory) and ``benchmark_cost.png`` (keep ratio,
    sequence length). Lines are medians, bands reach from the fastest to the slowest run.

    Args:
        path: JSON of a report.
        folder: where the pictures go.

    Returns:
        The files written.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: the report holds nothing to draw.
    """
    require("matplotlib").use("Agg")
    plt = require("matplotlib.pyplot")
    report = json.loads(path.read_text())
    drawings = {"backbone": _draw_seconds, "memory": _draw_memory, "keep-ratio": _draw_ratios, "length": _draw_length}
    rows = {benchmark: [row for row in report["rows"] if row["benchmark"] == benchmark] for benchmark in drawings}
    written = []
    with plt.rc_context({"font.size": 11, "axes.grid": True, "grid.alpha": 0.3}):
        for name, benchmarks in (
            ("benchmark_size", ("backbone", "memory")),
            ("benchmark_cost", ("keep-ratio", "length")),
        ):
            present = [benchmark for benchmark in benchmarks if rows[benchmark]]
            if not present:
                continue
            figure, axes = plt.subplots(
                1, len(present), figsize=(7 * len(present), 5.4), layout="constrained", squeeze=False
            )
            figure.suptitle(_caption(report["environment"], rows[present[0]][0]), fontsize=10)
            # Of both panels together, so that a model looks the same in either.
            models = list(dict.fromkeys(row["model"] for benchmark in present for row in rows[benchmark]))
            for panel, benchmark in zip(axes[0], present, strict=True):
                drawings[benchmark](panel, rows[benchmark], models)
                panel.legend(fontsize=9)
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=110)
            plt.close(figure)
    if not written:
        raise ValueError(f"{path} holds no backbone, memory, keep-ratio or length figures: run one of these first")
    return written


def _draw_seconds(axes: Axes, rows: _Rows, models: Sequence[str]) -> None:
    axes.set(title="one forward", ylabel="seconds")
    _draw_lines(axes, rows, models, "size", "median_s", "image edge, pixels")


def _draw_memory(axes: Axes, rows: _Rows, models: Sequence[str]) -> None:
    axes.set(title="peak memory of one forward, above the idle process", ylabel="MiB")
    _draw_lines(axes, rows, models, "size", "peak_mib", "image edge, pixels")


def _draw_length(axes: Axes, rows: _Rows, models: Sequence[str]) -> None:
    axes.set(title="the operator that mixes tokens", ylabel="seconds")
    _draw_lines(axes, rows, models, "length", "median_s", "tokens")


def _draw_lines(axes: Axes, rows: _Rows, models: Sequence[str], x: str, y: str, label: str) -> None:
    for i, model in enumerate(models):
        # A logarithmic axis has no place for a forward that fits into memory already held.
        points = [row for row in rows if row["model"] == model and row.get(y, 0) > 0]
        if points:
            _draw_line(axes, [row[x] for row in points], points, y, i, model)
    axes.set(xscale="log", yscale="log", xlabel=label)
    _set_ticks(axes, {row[x]: str(row[x]) for row in rows})


def _draw_ratios(axes: Axes, rows: _Rows, models: Sequence[str]) -> None:
    variant, size = rows[0]["model"].split()[0], rows[0]["size"]
    axes.set(title=f"one forward of {variant}, {size} x {size} pixels", ylabel="seconds")
    points = [row for row in rows if "keep_ratios" in row and "median_s" in row]
    ratios = [row["keep_ratios"][0] for row in points]
    _draw_line(axes, ratios, points, "median_s", 0, "with selection")
    for row in rows:
        if "keep_ratios" not in row and "median_s" in row:
            axes.axhline(row["median_s"], color=_STYLES[1][0], linestyle="--", label="without selection")
    axes.set(xscale="log", xlabel="tokens kept in the first stage; later stages in proportion, at most all")
    axes.set_ylim(bottom=0)
    _set_ticks(axes, {ratio: "all" if ratio == 1 else f"1/{1 / ratio:g}" for ratio in ratios})


def _draw_line(axes: Axes, x: Sequence[float], rows: _Rows, y: str, style: int, label: str) -> None:
    color, marker = _STYLES[style % len(_STYLES)]
    axes.plot(x, [row[y] for row in rows], color=color, marker=marker, label=label)
    if y == "median_s":
        low, high = [row["min_s"] for row in rows], [row["max_s"] for row in rows]
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def _set_ticks(axes: Axes, labels: dict[float, str]) -> None:
    axes.set_xticks(list(labels), list(labels.values()))
    axes.minorticks_off()


def _caption(environment: dict[str, Any], row: dict[str, Any]) -> str:
    where = environment["cpu"] if environment["device"] == "cpu" else environment["device"]
    threads = f"{environment['threads']} thread{'s' if environment['threads'] > 1 else ''}"
    return f"{where}, {threads}, torch {environment['packages']['torch']}, batch 1, {row['dtype']}"
