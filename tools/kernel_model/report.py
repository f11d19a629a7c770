"""The report: every launch of the operators at the backbone's shapes, compiled and modelled, as tables."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from dynamicvis_kernels._triton import Launch

from kernel_model.chips import CHIPS, Chip, Work, bounds, occupancy
from kernel_model.compiled import Compiled, compile_launch
from kernel_model.disassembly import KINDS
from kernel_model.forward import (
    BANDWIDTH_FRACTION,
    LAUNCH_SECONDS,
    TENSOR_FRACTION,
    Operation,
    OperatorCall,
    trace_forward,
)

# A kernel that nobody has timed is taken to reach this much of the unit that binds it.
KERNEL_FRACTION = 0.5
# arXiv 2503.16426, table 14: DynamicVis-B at 2048 x 2048, batch 1.
PAPER_MILLISECONDS = 97.18
# Operator: module of its kernels, functions that plan its forward and backward.
_PLANS = {
    "causal_conv_silu": ("causal_conv", "plan_forward", "plan_backward"),
    "selective_scan": ("selective_scan", "plan_forward", "plan_backward"),
    "gather_tokens": ("token_routing", "plan_gather_forward", "plan_gather_backward"),
    "scatter_tokens": ("token_routing", "plan_scatter_forward", "plan_scatter_backward"),
}


@dataclass(frozen=True)
class Row:
    """One launch at one shape on one target.

    Attributes:
        stage: of the backbone, from 1.
        shape: of the operator's first input.
        direction: forward or backward.
        calls: how often one forward (or backward) of the backbone runs it.
    """

    variant: str
    size: int
    stage: int
    operator: str
    shape: tuple[int, ...]
    direction: str
    kernel: str
    calls: int
    target: str
    compiled: Compiled

    def work(self, chip: Chip) -> Work:
        """What the launch costs on a chip of its target."""
        compiled, counts = self.compiled, self.compiled.counts
        lanes = chip.warp_size * compiled.warps
        issued = sum(counts.kinds[kind] for kind in chip.issuing) + (chip.exp_slots - 1) * counts.kinds["exp"]
        return Work(
            bytes=compiled.bytes,
            transcendentals=counts.kinds["exp"] * lanes,
            fmas=counts.fmas * lanes,
            issued=issued * compiled.warps,
            programs=compiled.programs,
        )


@dataclass(frozen=True)
class Report:
    """Rows of all launches, and torch's own operations of one forward per (variant, size)."""

    rows: list[Row]
    operations: dict[tuple[str, int], list[Operation]]


def build_report(variants: Sequence[str], sizes: Sequence[int], targets: Sequence[str]) -> Report:
    """Trace the backbones, plan their operators' launches and compile each for each target."""
    rows: list[Row] = []
    operations = {}
    for variant in variants:
        for size in sizes:
            print(f"compiling: {variant}, {size} x {size}", file=sys.stderr, flush=True)
            traced = trace_forward(variant, size)
            operations[variant, size] = [item for item in traced if isinstance(item, Operation)]
            for stage, call, calls in _distinct_calls(traced):
                shape = tuple(call.arguments[0].shape)
                for direction, launches in zip(("forward", "backward"), _plan(call), strict=True):
                    for launch in launches:
                        place = (variant, size, stage, call.name, shape, direction, launch.name, calls)
                        rows += [Row(*place, target, compile_launch(launch, target)) for target in targets]
    return Report(rows, operations)


def _distinct_calls(traced: Iterable[Operation | OperatorCall]) -> list[tuple[int, OperatorCall, int]]:
    """Calls of different shapes with the stage they belong to and their number."""
    found: dict[tuple[Any, ...], list[OperatorCall]] = {}
    for call in traced:
        if isinstance(call, OperatorCall):
            key = (call.name, *((a.shape, a.stride()) if isinstance(a, torch.Tensor) else a for a in call.arguments))
            found.setdefault(key, []).append(call)
    stages: dict[str, int] = {}
    result = []
    for calls in found.values():
        stages[calls[0].name] = stages.get(calls[0].name, 0) + 1
        result.append((stages[calls[0].name], calls[0], len(calls)))
    return result


def _plan(call: OperatorCall) -> tuple[list[Launch], list[Launch]]:
    """Launches of an operator's forward and of its backward."""
    package, plan_forward, plan_backward = _PLANS[call.name]
    module = importlib.import_module(f"dynamicvis_kernels.{package}.triton")
    launches, output = getattr(module, plan_forward)(*call.arguments)
    return launches, getattr(module, plan_backward)(torch.empty_like(output), *call.arguments)[0]


def to_json(report: Report) -> dict[str, Any]:
    """Everything: one entry per kernel, shape and target, with the bounds on the target's chips."""
    entries = []
    for row in report.rows:
        entry = asdict(row)
        for chip in CHIPS:
            if chip.target == row.target:
                entry["chip"] = chip.name
                entry["occupancy"] = _occupancy(row, chip)
                entry["bound_seconds"] = bounds(chip, row.work(chip))
        entries.append(entry)
    return {
        "note": "a model made from compiled code and published rates; nothing here was measured",
        "triton": triton.__version__,
        "chips": [asdict(chip) for chip in CHIPS],
        "spills": spilling(report),
        "kernels": entries,
        "forward": [
            {
                "variant": variant,
                "size": size,
                "chip": chip.name,
                "seconds": forward_seconds(report, variant, size, chip),
            }
            for variant, size in report.operations
            for chip in _chips(report)
        ],
    }


def spilling(report: Report) -> list[str]:
    """Kernels with spilled registers, one entry per kernel and target."""
    groups = _grouped(
        (row for row in report.rows if row.compiled.spills), lambda row: (row.operator, row.kernel, row.target)
    )
    return [
        f"{operator}, {kernel} ({_passes(rows)}) on {target}: "
        f"up to {max(row.compiled.spills for row in rows)} registers at {len(rows)} shapes"
        for (operator, kernel, target), rows in groups.items()
    ]


def forward_seconds(report: Report, variant: str, size: int, chip: Chip) -> dict[str, tuple[int, float, float]]:
    """Per group of one forward: launches, seconds at the published rates, modelled seconds."""
    groups: dict[str, list[tuple[int, float, float]]] = {}
    for row in report.rows:
        if (row.variant, row.size, row.target, row.direction) == (variant, size, chip.target, "forward"):
            bound = max(bounds(chip, row.work(chip)).values())
            modelled = max(bound / KERNEL_FRACTION, LAUNCH_SECONDS)
            groups.setdefault(row.operator, []).append((row.calls, row.calls * bound, row.calls * modelled))
    for operation in report.operations[variant, size]:
        bound = max(operation.flops / chip.tensor, operation.bytes / chip.bandwidth)
        groups.setdefault(operation.group, []).append((1, bound, operation.seconds(chip)))
    return {
        name: (sum(n for n, _, _ in parts), sum(b for _, b, _ in parts), sum(m for _, _, m in parts))
        for name, parts in groups.items()
    }


def to_markdown(report: Report) -> str:
    """The tables for the README."""
    variant, size = next(iter(report.operations))[0], max(size for _, size in report.operations)
    spills = spilling(report)
    targets = list(dict.fromkeys(row.target for row in report.rows))
    shapes = len({(row.variant, row.size, row.stage) for row in report.rows})
    parts = [
        f"Triton {triton.__version__}, {', '.join(targets)}; {shapes} shapes: the four stages of "
        f"{_listed(row.variant for row in report.rows)} at {_listed(row.size for row in report.rows)} pixels, batch 1, "
        "bfloat16.",
        "Spills: " + ("**" + "; ".join(spills) + "**" if spills else "none on any target."),
        "Exponentials counted in the machine code, against Triton's own code before: "
        f"{_count_error(report):.1%} apart at most.",
        "### Compiled code",
        _resource_table(report, variant, size),
        f"### Bounds of one launch: {variant}, {size} x {size}",
        "Microseconds that memory · transcendentals · FP32 · instruction issue need at the chip's published rates; the "
        "largest in bold. *Requested* is what the programs ask of caches and memory together. Modelled, not measured.",
        _bound_table(report, variant, size),
        f"### One forward: {variant}, {size} x {size}",
        _forward_table(report, variant, size),
        _forward_assumptions((variant, size) == ("base", 2048)),
        "### Chips",
        _chip_table(_chips(report)),
    ]
    return "\n\n".join(parts)


def _resource_table(report: Report, variant: str, size: int) -> str:
    rows = []
    for (operator, kernel, target), members in _grouped(
        report.rows, lambda row: (row.operator, row.kernel, row.target)
    ).items():
        chip = next(chip for chip in CHIPS if chip.target == target)
        example = next((row for row in members if (row.variant, row.size) == (variant, size)), members[0])
        spills = max(row.compiled.spills for row in members)
        scalar = max(row.compiled.scalar_spills for row in members)
        counts = example.compiled.counts
        loop = ", ".join(f"{counts.loop[kind]} {kind}" for kind in KINDS if counts.loop[kind]) or "no loop"
        rows.append(
            [
                *(operator, _passes(members), kernel, target),
                _range(row.compiled.registers for row in members),
                f"{spills}" + (f" ({scalar} scalar)" if scalar else ""),
                _range(row.compiled.shared for row in members),
                _range(round(100 * _occupancy(row, chip)) for row in members) + " %",
                loop,
            ]
        )
    heads = [
        "operator",
        "pass",
        "kernel",
        "target",
        "registers",
        "spills",
        "shared, bytes",
        "occupancy",
        "hottest loop",
    ]
    return _table(heads, rows)


def _bound_table(report: Report, variant: str, size: int) -> str:
    rows = []
    chips = _chips(report)
    chosen = [row for row in report.rows if (row.variant, row.size) == (variant, size)]
    for (operator, kernel, stage, _), members in _grouped(
        chosen, lambda row: (row.operator, row.kernel, row.stage, row.compiled.programs)
    ).items():
        first = members[0]
        work = first.work(chips[0])
        cells = []
        for chip in chips:
            row = next(row for row in members if row.target == chip.target)
            microseconds = [1e6 * seconds for seconds in bounds(chip, row.work(chip)).values()]
            cells.append(" · ".join(f"**{v:.1f}**" if v == max(microseconds) else f"{v:.1f}" for v in microseconds))
        rows.append(
            [
                *(operator, _passes(members), kernel, f"{stage}", " x ".join(str(n) for n in first.shape)),
                f"{work.bytes / 1e6:.1f}",
                f"{first.compiled.requested / 1e6:.0f}",
                f"{work.transcendentals * work.programs / 1e6:.1f}",
                f"{work.fmas * work.programs / 1e6:.1f}",
                f"{work.programs}",
                *cells,
            ]
        )
    heads = ["operator", "pass", "kernel", "stage", "first input", "MB", "requested", "M exp", "M FP32", "programs"]
    return _table([*heads, *(chip.name for chip in chips)], rows)


def _forward_table(report: Report, variant: str, size: int) -> str:
    chips = _chips(report)
    seconds = [forward_seconds(report, variant, size, chip) for chip in chips]
    groups = sorted(seconds[0], key=lambda group: -seconds[0][group][2])
    rows = [
        [
            group.replace("_", " "),
            f"{seconds[0][group][0]}",
            *(f"{1e3 * found[group][1]:.2f} / {1e3 * found[group][2]:.2f}" for found in seconds),
        ]
        for group in groups
    ]
    totals = [[sum(values[i] for values in found.values()) for i in range(3)] for found in seconds]
    rows.append(
        ["**sum**", f"{totals[0][0]}", *(f"{1e3 * total[1]:.1f} / **{1e3 * total[2]:.1f} ms**" for total in totals)]
    )
    return _table(["part", "launches", *(f"{chip.name}: bound / modelled, ms" for chip in chips)], rows)


def _forward_assumptions(in_paper: bool) -> str:
    paper = (
        f"The paper reports {PAPER_MILLISECONDS} ms for this forward (arXiv 2503.16426, table 14; it does not name the "
        "GPU). "
    )
    return (paper if in_paper else "") + (
        "*Bound*: every launch at the published rate of the unit that binds it, one after the other. *Modelled*: our "
        f"kernels reach {KERNEL_FRACTION:.0%} of that rate; linear layers and patch convolutions {TENSOR_FRACTION:.0%} "
        f"of the dense bf16 matrix rate or {BANDWIDTH_FRACTION:.0%} of the memory bandwidth, whichever takes longer; "
        f"everything else {BANDWIDTH_FRACTION:.0%} of the bandwidth, each tensor read or written once, a top-k as "
        f"eight passes; no launch takes less than {1e6 * LAUNCH_SECONDS:.0f} us, and the CPU keeps up. These fractions "
        "are assumptions: a measurement on a GPU replaces them."
    )


def _chip_table(chips: list[Chip]) -> str:
    rows = [
        [
            *(chip.name, chip.target, f"{chip.cores}", f"{chip.clock / 1e9:.2f}", f"{chip.bandwidth / 1e9:.0f}"),
            *(f"{chip.tensor / 1e12:.0f}", f"{chip.fma}", f"{chip.transcendental}", f"{chip.issue}"),
            *(f"{chip.max_warps} x {chip.warp_size}", f"{chip.registers}", f"{chip.shared // 1024}", chip.source),
        ]
        for chip in chips
    ]
    heads = ["chip", "target", "cores", "GHz", "GB/s", "bf16 TFLOP/s", "FMA", "exp", "issue", "warps", "registers"]
    return (
        "FMA, exp and issue (instructions of a warp) are per clock and core; warps, registers and shared memory (KiB) "
        "per core.\n\n" + _table([*heads, "shared", "source"], rows)
    )


def _count_error(report: Report) -> float:
    """Largest relative difference of the two counts of exponentials: how far trips and unrolling were understood."""
    pairs = ((row.compiled.counts.exps, row.compiled.ir_exps) for row in report.rows)
    return max((abs(counted / expected - 1) for counted, expected in pairs if expected), default=0.0)


def _chips(report: Report) -> list[Chip]:
    targets = {row.target for row in report.rows}
    return [chip for chip in CHIPS if chip.target in targets]


def _occupancy(row: Row, chip: Chip) -> float:
    return occupancy(chip, row.compiled.registers, row.compiled.shared, row.compiled.warps)


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _passes(rows: Iterable[Row]) -> str:
    passes = dict.fromkeys(row.direction for row in rows)
    return "both" if len(passes) == 2 else next(iter(passes))


def _range(values: Iterable[int]) -> str:
    values = sorted(set(values))
    return f"{values[0]}" if len(values) == 1 else f"{values[0]}-{values[-1]}"


def _listed(values: Iterable[Any]) -> str:
    return " and ".join(str(value) for value in dict.fromkeys(values))


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows))
