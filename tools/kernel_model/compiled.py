"""Ahead-of-time compilation of a launch for a GPU that is not there."""

from __future__ import annotations

import functools
import math
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from dynamicvis_kernels._triton import Launch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from kernel_model.disassembly import Counts, Instruction, count, read_amdgcn, read_sass
from kernel_model.ir import read_function

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}
_NVIDIA_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Compiled:
    """One launch on one target.

    Attributes:
        registers: vector registers per thread.
        spills: registers per thread that live in memory: 4-byte words of stack (NVIDIA), spilled VGPRs (AMD).
        scalar_spills: scalar registers kept in lanes of vector registers (AMD); they cost moves, no memory.
        shared: bytes of shared memory per program.
        warps: per program.
        programs: size of the grid.
        counts: what one warp runs.
        ir_exps: exponentials per lane by the ttgir, to hold against ``counts.exps``.
        bytes: device memory moved: of each tensor the smaller of its size and what the programs request.
        requested: bytes that the programs request, mostly from caches.
    """

    registers: int
    spills: int
    scalar_spills: int
    shared: int
    warps: int
    programs: int
    counts: Counts
    ir_exps: float
    bytes: int
    requested: int


class _TargetDriver:
    """What the just-in-time compiler asks of a driver before it launches; the device is the target itself."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_device(self) -> GPUTarget:
        return self.target

    def get_current_stream(self, device: GPUTarget) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


@contextmanager
def compiling_for(target: str) -> Iterator[None]:
    """Let kernels compile for a target."""
    previous = driver._active
    driver.set_active(_TargetDriver(TARGETS[target]))
    try:
        yield
    finally:
        driver._active = previous


def compile_launch(launch: Launch, target: str) -> Compiled:
    """Compile a launch as the just-in-time compiler would, its specialisations included, and read the result.

    Args:
        launch: its tensors may be on the device ``meta``.
        target: one of `TARGETS`.

    Raises:
        FileNotFoundError: Triton came without NVIDIA's disassembler.
        ValueError: a loop of the kernel whose trip count does not follow from the arguments.
    """
    with compiling_for(target):
        kernel = launch.kernel.warmup(
            *launch.arguments,
            **launch.constants,
            grid=launch.grid,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
    names = [name for name in launch.kernel.arg_names if name not in launch.constants]
    values = dict(zip(names, launch.arguments, strict=True)) | launch.constants
    programs = math.prod(launch.grid)
    body = read_function(kernel.asm["ttgir"], values, launch.grid).body
    requests = read_function(kernel.asm["ttir"], values, launch.grid)
    sizes = {name: value.numel() * value.element_size() for name, value in values.items() if hasattr(value, "numel")}
    requested = [
        (name, programs * size) for traffic in (requests.read, requests.written) for name, size in traffic.items()
    ]
    code = _read_machine_code(kernel)
    return Compiled(
        registers=code.registers,
        spills=code.spills,
        scalar_spills=code.scalar_spills,
        shared=kernel.metadata.shared,
        warps=kernel.metadata.num_warps,
        programs=programs,
        counts=count(code.instructions, code.labels, body),
        ir_exps=body.total(lambda region: region.exps),
        bytes=int(sum(min(sizes[name], size) for name, size in requested)),
        requested=int(sum(size for _, size in requested)),
    )


@dataclass(frozen=True)
class _MachineCode:
    registers: int
    spills: int
    scalar_spills: int
    instructions: list[Instruction]
    labels: dict[str, int]


@functools.cache
def _read_machine_code(kernel: Any) -> _MachineCode:
    if "amdgcn" in kernel.asm:
        text = kernel.asm["amdgcn"]
        registers, spills, scalar_spills = (
            int(re.search(rf"^\s*\.{key}:\s*(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
            for key in ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count")
        )
        return _MachineCode(registers, spills, scalar_spills, *read_amdgcn(text))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = re.search(r"REG:(\d+) STACK:(\d+).* LOCAL:(\d+)", _run("cuobjdump", "-res-usage", file.name))
        assert usage is not None
        sass = _run("nvdisasm", "-c", "-gi", "-ndf", file.name)
    return _MachineCode(int(usage[1]), -(-(int(usage[2]) + int(usage[3])) // 4), 0, *read_sass(sass))


def _run(tool: str, *arguments: str) -> str:
    if not (_NVIDIA_TOOLS / tool).exists():
        raise FileNotFoundError(f"{_NVIDIA_TOOLS / tool} is missing: install Triton from its wheel, which brings it")
    return subprocess.run([_NVIDIA_TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout
