"""Reading of disassembled kernels: instructions by kind, loops, and how often each instruction runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kernel_model.ir import Region

KINDS = ("exp", "FP32", "memory", "shared", "vector", "scalar")

_SASS_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(@!?U?P\w+ )?\s*([A-Z][\w.]*)\s*(.*?)\s*;")
_SASS_PLACE = re.compile(r'//## File "[^"]*", line (\d+)(?: inlined at "[^"]*", line (\d+))?')
_SASS_KINDS = {
    "exp": re.compile(r"MUFU"),
    "FP32": re.compile(r"(FFMA|FADD|FMUL)"),
    "memory": re.compile(r"(LDG|STG|LD|ST|LDL|STL|LDGSTS|RED|ATOM|ATOMG)\b"),
    "shared": re.compile(r"(LDS|STS|LDSM|STSM|ATOMS|SHFL)\b"),
    "scalar": re.compile(r"(U[A-Z]|R2UR|S2UR|LDC|BRA|BSSY|BSYNC|BREAK|EXIT|CALL|RET|BAR|WARPSYNC|DEPBAR|NOP|MEMBAR)"),
}
_AMD_INSTRUCTION = re.compile(r"\t([a-z]\w+)(?:\s+([^;]*))?")
_AMD_PLACE = re.compile(r"\t\.loc\s.*;\s*(.*)")
_AMD_FP32 = re.compile(r"v_(?:pk_|dual_)?(?:fma|fmac|fmaak|fmamk|mul|add|sub|subrev|mac|mad)_(?:legacy_)?f32")
_AMD_KINDS = {
    "exp": re.compile(r"v_(?:s_)?(?:exp|log|rcp|rcp_iflag|rsq|sqrt|sin|cos)_f(?:16|32)"),
    "FP32": _AMD_FP32,
    "memory": re.compile(r"(?:buffer|global|flat|scratch)_"),
    "shared": re.compile(r"ds_"),
    "vector": re.compile(r"v_"),
}


@dataclass(frozen=True)
class Instruction:
    """One instruction of a warp.

    Attributes:
        kind: one of `KINDS`.
        exps: exponentials per lane, without the other transcendentals.
        fmas: FP32 operations per lane, a fused multiply-add being one.
        flops: the same, a fused multiply-add being two.
        target: label that it branches to.
        falls_through: whether the next instruction may follow.
        line: of the kernel's function; 0 where unknown.
    """

    kind: str
    exps: int = 0
    fmas: int = 0
    flops: int = 0
    target: str = ""
    falls_through: bool = True
    line: int = 0

    @property
    def ends_block(self) -> bool:
        return bool(self.target) or not self.falls_through


@dataclass
class Loop:
    """A loop of the machine code; ``own`` are its instructions outside of the loops within it."""

    own: list[Instruction] = field(default_factory=list)
    parent: Loop | None = None
    region: Region | None = None
    iterations: float = 0.0


@dataclass(frozen=True)
class Counts:
    """How often a warp of the first program runs what.

    Attributes:
        kinds: instructions by kind.
        exps: exponentials per lane.
        fmas: FP32 operations per lane; other transcendentals than exponentials are in ``kinds`` alone.
        loop: instructions by kind in one iteration of the loop that issues most, zeros where nothing loops.
        loop_iterations: how often that loop runs.
        loop_exps: exponentials per lane in one iteration of it.
    """

    kinds: dict[str, float]
    exps: float
    fmas: float
    loop: dict[str, int]
    loop_iterations: float
    loop_exps: int


def read_sass(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions and labels of ``nvdisasm -c -gi``."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    line = 0
    for row in text.splitlines():
        if match := re.match(r"(\.L_\w+|\$\w+):", row):
            labels[match[1]] = len(instructions)
        elif match := _SASS_PLACE.search(row):
            line = int(match[2] or match[1])
        elif match := _SASS_INSTRUCTION.match(row):
            predicate, name, operands = match[1], match[2], match[3]
            kind = next((kind for kind, pattern in _SASS_KINDS.items() if pattern.match(name)), "vector")
            branch = re.search(r"(\.L_\w+|\$\w+)", operands) if name.startswith(("BRA", "CALL")) else None
            fp32 = int(kind == "FP32")
            instructions.append(
                Instruction(
                    kind,
                    exps=int(name.startswith("MUFU.EX2")),
                    fmas=fp32,
                    flops=fp32 + int(name.startswith("FFMA")),
                    target=branch[1] if branch else "",
                    falls_through=bool(predicate) or not re.fullmatch(r"BRA|EXIT|RET\b.*", name),
                    line=line,
                )
            )
    return instructions, labels


def read_amdgcn(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions and labels of the assembly that LLVM writes."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    line = 0
    for row in text.splitlines():
        if row.startswith(".Lfunc_end"):
            break
        if match := re.match(r"(\.L\w+):", row):
            labels[match[1]] = len(instructions)
        elif match := _AMD_PLACE.match(row):
            places = re.findall(r":(\d+):\d+", match[1])
            line = int(places[-1]) if places else line
        elif match := _AMD_INSTRUCTION.match(row):
            name, operands = match[1], match[2] or ""
            kind = next((kind for kind, pattern in _AMD_KINDS.items() if pattern.match(name)), "scalar")
            halves = [half for half in (name, *re.findall(r":: (v_dual_\w+)", operands)) if _AMD_FP32.match(half)]
            kind = "FP32" if halves else kind
            fmas = sum(2 if half.startswith("v_pk_") else 1 for half in halves)
            fused = sum((2 if half.startswith("v_pk_") else 1) for half in halves if re.search(r"_(fm|mac|mad)", half))
            branch = re.match(r"(\.L\w+)", operands) if "branch" in name else None
            instructions.append(
                Instruction(
                    kind,
                    exps=int(name.startswith("v_exp_f32")),
                    fmas=fmas,
                    flops=fmas + fused,
                    target=branch[1] if branch else "",
                    falls_through=name not in ("s_branch", "s_endpgm", "s_setpc_b64"),
                    line=line,
                )
            )
    return instructions, labels


def count(instructions: list[Instruction], labels: dict[str, int], body: Region) -> Counts:
    """Count what one warp runs.

    Each machine loop belongs to the loop of the ttgir that shares most lines with it, and runs as often, divided by its
    unrolling: exponentials (or, without any, additions and multiplications) per iteration here over those there. Of
    several machine loops of one ttgir loop, the largest does all iterations and the others, the remainders of
    unrolling, none; a remainder in straight line counts once. A branch counts as if it were taken by every warp.
    """
    loops, outside = _find_loops(instructions, labels)
    regions = {id(region): (region, runs) for region, runs in _flatten(body)}
    chosen: dict[int, Loop] = {}
    for loop in loops:
        loop.region = _best_region(loop, [region for region, _ in regions.values()])
        if loop.region is not None:
            main = chosen.setdefault(id(loop.region), loop)
            if len(loop.own) > len(main.own):
                chosen[id(loop.region)] = loop
    mapped = set(chosen)
    for loop in loops:
        if loop.region is None:
            loop.iterations = loop.parent.iterations if loop.parent else 1.0
        elif chosen[id(loop.region)] is loop:
            loop.iterations = regions[id(loop.region)][1] / _unrolling(loop, mapped)
    parts = [(outside, 1.0), *((loop.own, loop.iterations) for loop in loops)]
    hottest = max(loops, key=lambda loop: loop.iterations * len(loop.own), default=Loop())

    def total(value: Callable[[Instruction], float]) -> float:
        return sum(times * sum(value(instruction) for instruction in own) for own, times in parts)

    return Counts(
        kinds={kind: total(lambda instruction, kind=kind: instruction.kind == kind) for kind in KINDS},  # type: ignore[misc]
        exps=total(lambda instruction: instruction.exps),
        fmas=total(lambda instruction: instruction.fmas),
        loop={kind: sum(instruction.kind == kind for instruction in hottest.own) for kind in KINDS},
        loop_iterations=hottest.iterations,
        loop_exps=sum(instruction.exps for instruction in hottest.own),
    )


def _find_loops(instructions: list[Instruction], labels: dict[str, int]) -> tuple[list[Loop], list[Instruction]]:
    """Natural loops of the control flow graph, outer before inner, and the instructions outside of all."""
    targets = (labels[instruction.target] for instruction in instructions if instruction.target)
    ends = (index + 1 for index, instruction in enumerate(instructions) if instruction.ends_block)
    starts = sorted(start for start in {0, *targets, *ends} if start < len(instructions))
    block_at = {start: block for block, start in enumerate(starts)}
    blocks = [instructions[start:end] for start, end in zip(starts, [*starts[1:], len(instructions)], strict=True)]
    successors: list[set[int]] = []
    for number, block in enumerate(blocks):
        last = block[-1]
        following = {block_at[labels[last.target]]} if last.target and labels[last.target] in block_at else set()
        if last.falls_through and number + 1 < len(blocks):
            following.add(number + 1)
        successors.append(following)
    # What cannot be reached is padding.
    reached, waiting = {0}, [0]
    while waiting:
        new = successors[waiting.pop()] - reached
        reached |= new
        waiting += new
    successors = [following if number in reached else set() for number, following in enumerate(successors)]
    dominators = _dominators(successors)
    bodies: dict[int, set[int]] = {}
    for number, following in enumerate(successors):
        for header in following & dominators[number]:
            body, waiting = bodies.setdefault(header, {header}), [number]
            while waiting:
                inside = waiting.pop()
                if inside not in body:
                    body.add(inside)
                    waiting += [n for n, after in enumerate(successors) if inside in after]
    nested = sorted(bodies.values(), key=len, reverse=True)
    loops = [Loop() for _ in nested]
    for i, loop in enumerate(loops):
        around = [outer for outer, body in zip(loops[:i], nested, strict=False) if nested[i] <= body]
        loop.parent = around[-1] if around else None
    outside: list[Instruction] = []
    for number, block in enumerate(blocks):
        if number not in reached:
            continue
        around = [loop for loop, body in zip(loops, nested, strict=True) if number in body]
        (around[-1].own if around else outside).extend(block)
    return loops, outside


def _dominators(successors: list[set[int]]) -> list[set[int]]:
    """Blocks through which every way from the first one leads; of an unreachable block, none."""
    everything = set(range(len(successors)))
    dominators = [{0}, *(set(everything) for _ in successors[1:])]
    predecessors = [[n for n, after in enumerate(successors) if block in after] for block in everything]
    changed = True
    while changed:
        changed = False
        for block in range(1, len(successors)):
            before = [dominators[n] for n in predecessors[block]]
            found = {block} | set.intersection(*before) if before else set()
            if found != dominators[block]:
                dominators[block], changed = found, True
    return dominators


def _flatten(region: Region, runs: float = 1.0) -> list[tuple[Region, float]]:
    """All loops with how often their bodies run."""
    return [pair for loop in region.loops for pair in ((loop, runs * loop.trips), *_flatten(loop, runs * loop.trips))]


def _best_region(loop: Loop, regions: list[Region]) -> Region | None:
    def score(region: Region) -> float:
        return sum(1 / sum(i.line in other.lines for other in regions) for i in loop.own if i.line in region.lines)

    best = max(regions, key=score, default=None)
    return best if best is not None and score(best) > 0 else None


def _unrolling(loop: Loop, mapped: set[int]) -> int:
    """Iterations of the ttgir loop in one of the machine loop; inner ones without a machine loop were unrolled."""

    def per_iteration(region: Region, exps: bool) -> float:
        inside = sum(child.trips * per_iteration(child, exps) for child in region.loops if id(child) not in mapped)
        return (region.exps if exps else region.flops) + inside

    assert loop.region is not None
    for exps in (True, False):
        expected = per_iteration(loop.region, exps)
        if expected > 0:
            found = sum(i.exps if exps else i.flops for i in loop.own)
            return max(1, round(found / expected))
    return 1
