"""Measurements as rows: a table on the terminal, JSON and CSV in files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarking.agreement import Agreement
from benchmarking.models import require
from benchmarking.timing import Timing

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Row:
    """One measurement, or the reason why there is none.

    Attributes:
        benchmark: ``scan``, ``backbone``, ``train-step``, ``length``, ``keep-ratio`` or ``memory``.
        model: what ran.
        dtype: type of weights and input.
        batch: images or sequences.
        size: edge of the image, pixels.
        length: tokens of the sequence.
        keep_ratios: fraction of tokens kept, per stage.
        parameters: number of parameters.
        runs: counted runs.
        median_s, min_s, lower_quartile_s, upper_quartile_s, max_s: seconds of one run.
        updates_per_second_per_core: state updates of a scan.
        share_of_ceiling: of the rate that the exponentials and multiply-adds of the states reach without memory.
        share_of_whole_ceiling: of the rate that all exponentials and multiply-adds of the operator reach without
            memory, those of softplus, skip connection and gate included.
        peak_mib: memory of the forward above the idle process, MiB; on CUDA, of the device.
        idle_mib: memory of the process before it, MiB; on CUDA, of the weights and input on the device.
        against, error, tolerance: the implementation compared with in the same run, the largest deviation, its bound.
        note: why there is no figure, or what is special about it.
    """

    benchmark: str
    model: str
    dtype: str
    batch: int = 1
    size: int | None = None
    length: int | None = None
    keep_ratios: tuple[float, ...] | None = None
    parameters: int | None = None
    runs: int | None = None
    median_s: float | None = None
    min_s: float | None = None
    lower_quartile_s: float | None = None
    upper_quartile_s: float | None = None
    max_s: float | None = None
    updates_per_second_per_core: float | None = None
    share_of_ceiling: float | None = None
    share_of_whole_ceiling: float | None = None
    peak_mib: float | None = None
    idle_mib: float | None = None
    against: str | None = None
    error: float | None = None
    tolerance: float | None = None
    note: str = ""

    def with_agreement(self, agreement: Agreement | None) -> Row:
        """The row with the result of a comparison."""
        if agreement is None:
            return self
        return replace(self, against=agreement.against, error=agreement.error, tolerance=agreement.tolerance)

    def with_timing(self, timing: Timing | str) -> Row:
        """The row with its seconds, or with the note that explains their absence."""
        if isinstance(timing, str):
            return replace(self, note=timing)
        return replace(
            self,
            runs=timing.runs,
            median_s=timing.median,
            min_s=timing.minimum,
            lower_quartile_s=timing.lower_quartile,
            upper_quartile_s=timing.upper_quartile,
            max_s=timing.maximum,
        )

    @property
    def disagrees(self) -> bool:
        """Whether the comparison failed."""
        return self.error is not None and self.tolerance is not None and self.error > self.tolerance


@dataclass
class Report:
    """All rows of a run, with what they depend on.

    Attributes:
        environment: from `benchmarking.environment.describe_environment`.
        command: arguments of the run.
        rules: how it was measured, in sentences.
        exponents: of the time's growth with the sequence length, by model.
    """

    environment: dict[str, Any]
    command: list[str]
    rules: dict[str, str]
    exponents: dict[str, float | None] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def disagrees(self) -> bool:
        """Whether any comparison failed."""
        return any(row.disagrees for row in self.rows)

    def write_json(self, path: Path) -> None:
        """Everything; what a row does not have is left out of it, and an infinite error is the text "inf"."""
        content = asdict(self)
        content["rows"] = [
            {key: "inf" if value == math.inf else value for key, value in row.items() if value not in (None, "")}
            for row in content["rows"]
        ]
        path.write_text(json.dumps(content, indent=1) + "\n")

    def write_csv(self, path: Path) -> None:
        """The rows; columns as in `Row`, keep ratios separated by spaces, empty where there is no value."""
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [column.name for column in fields(Row)])
            writer.writeheader()
            for row in self.rows:
                values = asdict(row)
                if row.keep_ratios is not None:
                    values["keep_ratios"] = " ".join(f"{ratio:g}" for ratio in row.keep_ratios)
                writer.writerow(values)

    def print_table(self, benchmark: str, console: Console) -> None:
        """The rows of one benchmark, with the columns that any of them fills."""
        rows = [row for row in self.rows if row.benchmark == benchmark]
        columns = [column for column in _COLUMNS if any(column.text(row) for row in rows)]
        table = require("rich.table").Table(title=benchmark)
        for column in columns:
            table.add_column(column.title, justify="left" if column.title in ("model", "note") else "right")
        for row in rows:
            table.add_row(*(column.text(row) for column in columns), style="red" if row.disagrees else None)
        console.print(table)
        if benchmark == "length":
            for model, exponent in self.exponents.items():
                if exponent is not None:
                    console.print(f"{model}: seconds grow with length to the power of {exponent:.2f}", highlight=False)


@dataclass(frozen=True)
class _Column:
    title: str
    text: Callable[[Row], str]


def _fraction(ratios: Sequence[float]) -> str:
    return " ".join("1" if ratio == 1 else f"1/{1 / ratio:g}" for ratio in ratios)


def _spread(row: Row) -> str:
    return "" if row.min_s is None or row.max_s is None else f"{row.min_s:.4g} to {row.max_s:.4g}"


def _quartiles(row: Row) -> str:
    if row.lower_quartile_s is None or row.upper_quartile_s is None:
        return ""
    return f"{row.lower_quartile_s:.4g} to {row.upper_quartile_s:.4g}"


def _number(form: str, name: str, scale: float = 1) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = getattr(row, name)
        return "" if value is None else format(value * scale, form)

    return text


_COLUMNS = (
    _Column("model", lambda row: row.model),
    _Column("size", _number("d", "size")),
    _Column("length", _number("d", "length")),
    _Column("kept", lambda row: "" if row.keep_ratios is None else _fraction(row.keep_ratios)),
    _Column("median s", _number(".4g", "median_s")),
    _Column("min to max", _spread),
    _Column("quartiles", _quartiles),
    _Column("runs", _number("d", "runs")),
    _Column("G updates/s/core", _number(".3f", "updates_per_second_per_core", 1e-9)),
    _Column("of ceiling", _number(".0%", "share_of_ceiling")),
    _Column("of whole ceiling", _number(".0%", "share_of_whole_ceiling")),
    _Column("peak MiB", _number(".1f", "peak_mib")),
    _Column("idle MiB", _number(".1f", "idle_mib")),
    _Column("error", _number(".1e", "error")),
    _Column("note", lambda row: row.note),
)
