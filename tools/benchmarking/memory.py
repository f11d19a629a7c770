"""Peak memory of one forward, every model and size in a fresh process of its own.

What counts is the memory above the idle process: model built, input made, libraries loaded and kernels compiled by a
forward of 64 pixels. On the CPU it is the resident set's high-water mark, on CUDA what the allocator handed out.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarking.models import MissingPackageError, build_model
from benchmarking.process import status_bytes
from benchmarking.report import Row
from benchmarking.timing import failure_note, synchronise

_WARM_UP_SIZE = 64
_MIB = 2**20
_TOOLS = Path(__file__).parents[1]


def memory(device: str, dtype: str, names: Sequence[str], sizes: Sequence[int], budget: float) -> list[Row]:
    """Peak memory of one forward, batch 1, over image sizes; a model whose forward passes the budget stops there."""
    rows = []
    notes: dict[str, str] = {}
    for size in sizes:
        for name in names:
            row = Row("memory", name, dtype, size=size)
            if name in notes:
                rows.append(replace(row, note=notes[name]))
                continue
            result = run_in_fresh_process({"model": name, "size": size, "device": device, "dtype": dtype})
            seconds, note = result.pop("seconds", 0.0), result.get("note", "")
            if note:
                notes[name] = note if result.pop("unavailable", False) else f"skipped: at {size} pixels, {note}"
            elif seconds > budget:
                notes[name] = f"skipped: {size} pixels took {seconds:.0f} s, over the budget of {budget:g} s"
            rows.append(replace(row, **result))
    return rows


def run_in_fresh_process(request: dict[str, Any]) -> dict[str, Any]:
    """`measure_forward` of ``request`` in a new interpreter; a note where it was killed or failed."""
    path = os.pathsep.join([str(_TOOLS), *filter(None, sys.path)])
    # A fixed threshold: large blocks go back to the system when they are freed, so that blocks left over from building
    # the model do not hide what the forward takes.
    environment = os.environ | {"PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}
    command = [sys.executable, "-m", "benchmarking.memory", json.dumps(request)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode < 0:
        return {"note": f"killed by signal {-process.returncode}, out of memory"}
    if process.returncode > 0:
        return {"note": f"cannot run: {process.stderr.strip().splitlines()[-1]}"}
    return json.loads(process.stdout.splitlines()[-1])


def measure_forward(request: dict[str, Any]) -> dict[str, Any]:
    """Fields of a `Row`: idle and peak memory; and the seconds of the forward. Or a note."""
    device, dtype = torch.device(request["device"]), getattr(torch, request["dtype"])
    try:
        model = build_model(request["model"]).to(device, dtype)
        images = torch.randn(1, 3, request["size"], request["size"], generator=torch.Generator().manual_seed(0))
        images = images.to(device, dtype)
        with torch.inference_mode():
            model(images.new_zeros(1, 3, _WARM_UP_SIZE, _WARM_UP_SIZE))
            start = time.perf_counter()
            idle, peak = peak_above_idle(lambda: model(images), device)
    except MissingPackageError as error:
        return {"note": str(error), "unavailable": True}
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return {"note": failure_note(error)}
    return {"idle_mib": idle, "peak_mib": peak, "seconds": time.perf_counter() - start}


def peak_above_idle(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """MiB in use before a call, and the highest use above it meanwhile.

    Raises:
        RuntimeError: the system does not tell a process its high-water mark (anything but Linux), on the CPU.
    """
    gc.collect()
    if device.type == "cuda":
        synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        idle = torch.cuda.memory_allocated(device)
        call()
        synchronise(device)
        return idle / _MIB, (torch.cuda.max_memory_allocated(device) - idle) / _MIB
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        idle = status_bytes("VmRSS")
    except OSError as error:
        raise RuntimeError("memory on the CPU is measured through Linux's /proc, which is not accessible") from error
    result = call()
    peak = status_bytes("VmHWM")
    del result
    return idle / _MIB, (peak - idle) / _MIB


if __name__ == "__main__":
    print(json.dumps(measure_forward(json.loads(sys.argv[1]))))
