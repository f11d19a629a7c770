"""Published rates of the chips, and the times and the occupancy that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernel_model.disassembly import KINDS


@dataclass(frozen=True)
class Chip:
    """One GPU. A core is a streaming multiprocessor (NVIDIA) or a compute unit (AMD).

    Attributes:
        target: what the kernels are compiled for.
        cores: number of cores.
        clock: boost clock of the vector units, Hz.
        bandwidth: of the device memory, bytes per second.
        tensor: dense bf16 matrix rate, FLOP per second.
        fma: FP32 multiply-adds per clock and core, at the published peak (on AMD with packed or dual instructions).
        transcendental: exp2, log2, reciprocal and the like per clock and core.
        issue: instructions of a warp per clock and core.
        issuing: kinds of instructions that share that rate; on AMD the scalar and memory units have their own.
        exp_slots: issue slots that one transcendental instruction takes; on CDNA it holds the vector pipe.
        schedulers: per core; each has its share of the registers and of the resident warps.
        warp_size: threads per warp (wavefront).
        max_warps: resident warps per core.
        max_programs: resident programs (thread blocks, workgroups) per core.
        registers: 32-bit vector registers per core.
        register_granularity: registers per thread are allocated in multiples of this.
        shared: bytes of shared memory (LDS) per core.
        source: where the numbers stand.
    """

    name: str
    target: str
    cores: int
    clock: float
    bandwidth: float
    tensor: float
    fma: int
    transcendental: int
    issue: int
    issuing: tuple[str, ...]
    exp_slots: int
    schedulers: int
    warp_size: int
    max_warps: int
    max_programs: int
    registers: int
    register_granularity: int
    shared: int
    source: str


CHIPS = (
    Chip(
        name="A100 SXM 80 GB",
        target="sm_80",
        cores=108,
        clock=1.41e9,
        bandwidth=2039e9,
        tensor=312e12,
        fma=64,
        transcendental=16,
        issue=4,
        issuing=KINDS,
        exp_slots=1,
        schedulers=4,
        warp_size=32,
        max_warps=64,
        max_programs=32,
        registers=65536,
        register_granularity=8,
        shared=164 * 1024,
        source="NVIDIA A100 whitepaper and data sheet; CUDA C++ Programming Guide, tables of arithmetic throughput and "
        "of compute capability 8.0",
    ),
    Chip(
        name="H100 SXM5",
        target="sm_90",
        cores=132,
        clock=1.98e9,
        bandwidth=3350e9,
        tensor=989.4e12,
        fma=128,
        transcendental=16,
        issue=4,
        issuing=KINDS,
        exp_slots=1,
        schedulers=4,
        warp_size=32,
        max_warps=64,
        max_programs=32,
        registers=65536,
        register_granularity=8,
        shared=228 * 1024,
        source="NVIDIA H100 whitepaper (66.9 TFLOP/s FP32, so 1.98 GHz); CUDA C++ Programming Guide, the same tables "
        "for 9.0",
    ),
    Chip(
        name="MI300X",
        target="gfx942",
        cores=304,
        clock=2.1e9,
        bandwidth=5300e9,
        tensor=1307.4e12,
        fma=128,
        transcendental=16,
        issue=1,
        issuing=("exp", "FP32", "vector"),
        exp_slots=4,
        schedulers=4,
        warp_size=64,
        max_warps=32,
        max_programs=32,
        registers=131072,
        register_granularity=8,
        shared=64 * 1024,
        source="AMD Instinct MI300X data sheet (163.4 TFLOP/s FP32, packed) and CDNA 3 ISA guide; four SIMDs of 16 "
        "lanes take 4 clocks per vector instruction and 16 per transcendental, as on every GCN and CDNA chip",
    ),
    Chip(
        name="RX 7900 XTX",
        target="gfx1100",
        cores=96,
        clock=2.5e9,
        bandwidth=960e9,
        tensor=122.8e12,
        fma=128,
        transcendental=16,
        issue=2,
        issuing=("exp", "FP32", "vector"),
        exp_slots=1,
        schedulers=2,
        warp_size=32,
        max_warps=32,
        max_programs=32,
        registers=98304,
        register_granularity=24,
        shared=64 * 1024,
        source="AMD Radeon RX 7900 XTX specifications (61.4 TFLOP/s FP32, dual issue) and RDNA 3 ISA guide; a quarter "
        "of the lanes for transcendentals",
    ),
)


@dataclass(frozen=True)
class Work:
    """What one launch does, per program where nothing else is said.

    Attributes:
        bytes: device memory read and written by the whole launch.
        transcendentals, fmas: lanes that execute a transcendental or an FP32 instruction (a packed one counts twice).
        issued: issue slots.
        programs: size of the grid.
    """

    bytes: int
    transcendentals: float
    fmas: float
    issued: float
    programs: int


def bounds(chip: Chip, work: Work) -> dict[str, float]:
    """Seconds that each unit of the chip needs at least for a launch, were it busy all the time.

    The units inside a core wait for the core with the most programs: ``ceil(programs / cores)`` of them.
    """
    programs = math.ceil(work.programs / chip.cores)
    return {
        "memory": work.bytes / chip.bandwidth,
        "transcendental": programs * work.transcendentals / chip.transcendental / chip.clock,
        "FMA": programs * work.fmas / chip.fma / chip.clock,
        "issue": programs * work.issued / chip.issue / chip.clock,
    }


def occupancy(chip: Chip, registers: int, shared: int, warps: int) -> float:
    """Resident warps as a fraction of the most that a core holds.

    Args:
        registers: vector registers per thread.
        shared: bytes of shared memory per program.
        warps: per program.
    """
    allocated = math.ceil(registers / chip.register_granularity) * chip.register_granularity
    per_scheduler = min(
        chip.max_warps // chip.schedulers, chip.registers // chip.schedulers // (allocated * chip.warp_size)
    )
    resident = min(chip.max_programs, per_scheduler * chip.schedulers // warps)
    if shared:
        resident = min(resident, chip.shared // shared)
    return resident * warps / chip.max_warps
