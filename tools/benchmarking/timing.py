"""Interleaved timing: all contestants in turn, round after round, so that a machine's moods meet all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

BUDGET_RULE = (
    "All contestants run in turn, round after round. The first run of each warms up and is not counted. A contestant "
    "leaves the rounds once its runs, warm-up included, have taken the budget, after at least one counted run; where "
    "the warm-up alone took the budget, it is the counted run. A contestant whose median passes the budget is skipped "
    "at the larger sizes."
)


@dataclass(frozen=True)
class Timing:
    """Seconds of the counted runs of one contestant."""

    runs: int
    median: float
    minimum: float
    lower_quartile: float
    upper_quartile: float
    maximum: float


def summarise(seconds: list[float]) -> Timing:
    """Median, extremes and quartiles of at least one run."""
    lower, _, upper = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return Timing(len(seconds), statistics.median(seconds), min(seconds), lower, upper, max(seconds))


def interleave(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    budget: float,
    device: torch.device,
    warmed: Collection[str] = (),
) -> dict[str, Timing | str]:
    """Time every call by `BUDGET_RULE`.

    Args:
        calls: what to time, by name.
        repeats: counted runs of a call that stays below the budget.
        budget: seconds.
        device: device that is waited for before the clock is read.
        warmed: names of the calls that run once more right before each of their runs, unseen by the clock, so that
            their inputs are in the caches and the threads awake.

    Returns:
        Per name its timing, or why there is none: the call ran out of memory or is not supported.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    failures: dict[str, str] = {}
    active = list(calls)
    while active:
        for name in tuple(active):
            try:
                if name in warmed:
                    calls[name]()
                seconds[name].append(_seconds(calls[name], device))
            except (RuntimeError, ValueError, NotImplementedError) as error:
                failures[name] = failure_note(error)
            total, runs = sum(seconds[name]), len(seconds[name])
            spent = total >= budget and (runs > 1 or seconds[name][0] >= budget)
            if name in failures or spent or runs > repeats:
                active.remove(name)
    return {name: failures.get(name) or summarise(values[1:] or values) for name, values in seconds.items()}


def failure_note(error: Exception) -> str:
    """One line on why a model could not run."""
    text = str(error).strip()
    if isinstance(error, torch.OutOfMemoryError) or "not enough memory" in text or "can't allocate memory" in text:
        return "out of memory"
    return f"cannot run: {text.splitlines()[0] if text else type(error).__name__}"


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
