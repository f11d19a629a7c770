"""Benchmarks below the model: the scan alone, and the cost of mixing tokens against the length of the sequence."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from dynamicvis_kernels import selective_scan
from torch.nn import functional as F

from benchmarking.agreement import OPERATOR_TOLERANCES, Agreement, naive_kernels, relative_error, wide
from benchmarking.ceiling import run_ceiling
from benchmarking.models import fused_attention, require
from benchmarking.report import Row
from benchmarking.suites import Settings, Sweep
from benchmarking.timing import Timing
from dynamicvis.backbone.mixer import EXPAND, STATES

SCAN_CHANNELS = 192  # inner channels of the first stage of base
ATTENTION_DIM = 192  # three heads; the mixer of that width scans twice as many channels
HEAD_DIM = 64
_COLD = "selective_scan, cold"
_KERNEL = "kernel, output ready"
_CACHED = "kernel, one row of memory"
_CALL = "call, one token"
_MEMORY = "memory alone"
# Each by a loop with its states in registers, and by one with its states in the cache.
_CEILINGS = ("ceiling", "ceiling, states in the cache")
_WHOLE_CEILINGS = ("whole ceiling", "whole ceiling, states in the cache")


def scan(settings: Settings, lengths: Sequence[int]) -> list[Row]:
    """The bidirectional selective scan over sequence lengths, and what the CPU's arithmetic would allow.

    Every length is compared with the naive version, and transformers' scan with ours. Ours is timed with its inputs in
    the caches, as the backbone hands them over, and "cold": with its inputs in memory, where the others left them.
    Four more say where its time goes: its kernel, prepared, writing into memory that is there, as inference has it,
    without the page faults of a new output; the kernel on tensors whose rows all lie in the same memory, which never
    leaves the first-level cache; sums that read and write the same tensors, and compute nothing else; and the operator
    on one token, which is the fixed cost of a call.
    """
    models = ["selective_scan", "naive", "transformers", _COLD]
    if settings.device.type == "cpu" and settings.dtype.itemsize >= 4:
        models += [*_CEILINGS, *_WHOLE_CEILINGS, _KERNEL, _CACHED, _MEMORY, _CALL]
    sweep = Sweep(settings, models)
    rows = []
    for length in lengths:
        inputs = _scan_inputs(settings, length, SCAN_CHANNELS)
        updates = 2 * length * SCAN_CHANNELS * STATES
        calls: dict[str, Callable[[], object]] = {
            "selective_scan": partial(selective_scan, *inputs),
            _COLD: partial(selective_scan, *inputs),
            "naive": partial(_naive_scan, inputs),
            _CALL: partial(selective_scan, *_scan_inputs(settings, 1, SCAN_CHANNELS)),
        }
        for names, shared in ((_CEILINGS, False), (_WHOLE_CEILINGS, True)):
            for name, cached in zip(names, (False, True), strict=True):
                calls[name] = partial(run_ceiling, updates, settings.dtype, shared=shared, cached=cached)
        if _KERNEL in models:
            calls[_KERNEL] = _kernel_alone(inputs)
            calls[_CACHED] = _kernel_alone([_first_row_only(tensor) for tensor in inputs])
            calls[_MEMORY] = _memory_alone(inputs)
        ours = _compare_with_naive(sweep, inputs)
        theirs = sweep.attempt("transformers", partial(_transformers_scan, inputs))
        if theirs is not None:
            calls["transformers"] = theirs
            result = sweep.attempt("transformers", theirs)
            if result is not None and ours is not None:
                # Its scan computes in float32 whatever the type.
                tolerance = max(OPERATOR_TOLERANCES[settings.dtype], OPERATOR_TOLERANCES[torch.float32])
                error = relative_error([result], [ours])
                sweep.agree("transformers", Agreement("selective_scan", error, tolerance))
        warmed = ("selective_scan", *_CEILINGS, *_WHOLE_CEILINGS, _KERNEL, _CACHED, _MEMORY, _CALL)
        timings = sweep.measure(calls, f"{length} tokens", warmed=warmed)
        rows += [_scan_row(sweep, name, timings, length, updates) for name in models]
    return rows


def length(settings: Settings, lengths: Sequence[int]) -> tuple[list[Row], dict[str, float | None]]:
    """The operator that mixes tokens, ours beside fused attention of a model of the same width, over sequence lengths.

    Returns:
        Rows, and per operator the exponent of the power law fitted to its seconds; None with less than two lengths.
    """
    sweep = Sweep(settings, ["selective_scan", "fused attention"])
    rows = []
    for tokens in lengths:
        inputs = _scan_inputs(settings, tokens, EXPAND * ATTENTION_DIM)
        q, k, v = settings.randn(3, 1, ATTENTION_DIM // HEAD_DIM, tokens, HEAD_DIM)
        calls: dict[str, Callable[[], object]] = {
            "selective_scan": partial(selective_scan, *inputs),
            "fused attention": partial(_attention, q, k, v),
        }
        if tokens == lengths[0]:
            _compare_with_naive(sweep, inputs)
        timings = sweep.measure(calls, f"{tokens} tokens")
        rows += [sweep.row("length", name, timings[name], length=tokens) for name in sweep.models]
    return rows, {name: fit_exponent([row for row in rows if row.model == name]) for name in sweep.models}


def fit_exponent(rows: Sequence[Row]) -> float | None:
    """Exponent of the power law between length and median seconds, by least squares on the logarithms."""
    points = [(row.length, row.median_s) for row in rows if row.length is not None and row.median_s is not None]
    if len(points) < 2:
        return None
    logarithms = np.log(np.array(points))
    return float(np.polyfit(logarithms[:, 0], logarithms[:, 1], 1)[0])


def _scan_inputs(settings: Settings, length: int, channels: int) -> tuple[torch.Tensor, ...]:
    rates = torch.arange(1.0, STATES + 1, device=settings.device).repeat(channels, 1).to(settings.dtype)
    shapes: list[tuple[int, ...]] = [*[(2, 1, length, channels)] * 2, *[(2, 1, length, STATES)] * 2]
    shapes += [(channels,), (1, length, channels), (channels,)]
    sizes = [math.prod(shape) for shape in shapes]
    parts = settings.randn(sum(sizes)).split(sizes)
    u, delta, B, C, D, z, bias = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
    return u, delta, -rates, B, C, D, z, bias


def _kernel_alone(inputs: Sequence[torch.Tensor]) -> Callable[[], object]:
    cpu = importlib.import_module("dynamicvis_kernels.selective_scan.cpu")  # loads numba
    u, delta, A, B, C, D, z, bias = inputs
    out = torch.empty(z[:, :1].shape).expand_as(z) if z.stride(1) == 0 else torch.empty_like(z)
    scan = cpu.RowScan(u, delta, A, B, C, D, z, bias, out)
    return partial(scan, (0, z.shape[1]), (0, 2), proceed=False)


def _first_row_only(tensor: torch.Tensor) -> torch.Tensor:
    """A sequence, or anything else as it is, whose rows all are its first one, in one place of memory."""
    return tensor[..., :1, :].expand(tensor.shape) if tensor.ndim > 2 else tensor


def _memory_alone(inputs: Sequence[torch.Tensor]) -> Callable[[], object]:
    """Two passes, as the scan's directions: each reads its inputs, the second the gate too, and writes the output."""
    u, delta, _, _, _, _, z, _ = inputs
    out = torch.empty_like(z)

    def call() -> torch.Tensor:
        torch.add(u[0], delta[0], out=out)
        return torch.addcmul(u[1], delta[1], z, out=out)

    return call


def _naive_scan(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    with naive_kernels():
        return selective_scan(*inputs)


def _transformers_scan(inputs: Sequence[torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Transformers' scan of both directions on a doubled batch; the inputs are laid out for it beforehand."""
    function = require("transformers.models.mamba.modeling_mamba").mamba_selective_scan
    u, delta, A, B, C, D, z, bias = inputs

    def doubled(forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
        return torch.cat([forward, backward.flip(1)]).transpose(1, 2).contiguous()

    u, delta, B, C, z = doubled(*u), doubled(*delta), doubled(*B), doubled(*C), doubled(z, z)

    def call() -> torch.Tensor:
        both = function(u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True)
        forward, backward = both.transpose(1, 2).chunk(2)
        return (forward + backward.flip(1)) / 2

    return call


def _scan_row(sweep: Sweep, name: str, timings: dict[str, Timing | str], length: int, updates: int) -> Row:
    def rate(model: str) -> float | None:
        timing = timings.get(model)
        if isinstance(timing, Timing) and model not in (_CALL, _MEMORY):
            return updates / timing.median / torch.get_num_threads()
        return None

    def share(ceilings: tuple[str, str]) -> float | None:
        rates = [reached for reached in map(rate, ceilings) if reached]
        return per_core / max(rates) if per_core and rates else None

    per_core = rate(name) if sweep.settings.device.type == "cpu" else None
    return sweep.row(
        "scan",
        name,
        timings[name],
        length=length,
        updates_per_second_per_core=per_core,
        share_of_ceiling=share(_CEILINGS),
        share_of_whole_ceiling=share(_WHOLE_CEILINGS),
    )


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    with fused_attention():
        return F.scaled_dot_product_attention(q, k, v)


def _compare_with_naive(sweep: Sweep, inputs: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Our scan's result, or None where it cannot run."""
    ours = sweep.attempt("selective_scan", partial(selective_scan, *inputs))
    if ours is not None:
        error = relative_error([ours], [_naive_scan(wide(inputs))])
        for name in ("selective_scan", _COLD, _KERNEL, _CACHED, _CALL):
            sweep.agree(name, Agreement("naive", error, OPERATOR_TOLERANCES[sweep.settings.dtype]))
    return ours
