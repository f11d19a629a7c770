"""Reading of Triton's intermediate code: loops with their trip counts, work per iteration, bytes requested."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_LOCATION = re.compile(r"\s*loc\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
_LINE = re.compile(r'(?:(?P<results>%[\w.]+(?::\d+)?) = )?"?(?P<op>[a-z_]+\.[\w.]+)"?(?P<rest>.*)')
_NAME = re.compile(r"%[\w.#]+")
_FOR = re.compile(r"%([\w.]+) = (\S+) to (\S+) step (\S+)")
_ITERATED = re.compile(r"%([\w.]+) = (%[\w.#]+)(?=[,)])")
_BYTES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
_FLOPS = {"arith.mulf": 1, "arith.addf": 1, "arith.subf": 1, "math.fma": 2}
_EXPS = ("math.exp", "math.exp2")
_KEEPS_POINTER = {
    *("tt.splat", "tt.addptr", "tt.broadcast", "tt.expand_dims", "tt.bitcast", "tt.reshape", "arith.select"),
    "ttg.convert_layout",
}
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a // b,
    "rem": lambda a, b: a % b,
    "min": min,
    "max": max,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
}
_INTEGER = re.compile(rf"arith\.({'|'.join(_ARITHMETIC)})(?:i|si|ui)")
_CASTS = ("arith.extsi", "arith.extui", "arith.trunci", "arith.index_cast")


@dataclass
class Region:
    """A loop body, or the whole function.

    Attributes:
        trips: iterations; 1 for the function, 0 in a branch that is not taken.
        exps: results of exponentials per iteration, without the loops inside: per thread where the code carries
            layouts, else per program.
        flops: likewise of additions and multiplications; a fused one is two.
        lines: lines of the kernel's function that its operations come from, without the loops inside.
        loops: the loops inside, in their order.
    """

    trips: int = 1
    exps: float = 0.0
    flops: float = 0.0
    lines: set[int] = field(default_factory=set)
    loops: list[Region] = field(default_factory=list)

    def total(self, count: Callable[[Region], float]) -> float:
        """Sum of a count over the region and the loops inside, each as often as it runs."""
        return self.trips * (count(self) + sum(loop.total(count) for loop in self.loops))


@dataclass(frozen=True)
class Function:
    """A kernel as its first program runs it.

    Attributes:
        body: the work.
        read, written: bytes requested per argument, masked elements included.
    """

    body: Region
    read: dict[str, float]
    written: dict[str, float]


@dataclass
class _Scope:
    """What an opening brace stands for: a loop (region), a branch (its results) or the inside of a reduction."""

    region: Region
    taken: bool = True
    results: list[str] = field(default_factory=list)
    otherwise: bool = True
    counted: bool = True


def read_function(code: str, arguments: Mapping[str, object], grid: tuple[int, ...]) -> Function:
    """Read a kernel's ttir or ttgir.

    Args:
        code: the module's text.
        arguments: values of the kernel's arguments by name; those that are no integers are ignored.
        grid: programs along each axis.

    Raises:
        ValueError: a loop whose trip count does not follow from the integer arguments.
    """
    return _Reader(code, arguments, grid).read()


class _Reader:
    def __init__(self, code: str, arguments: Mapping[str, object], grid: tuple[int, ...]) -> None:
        self.code = code
        self.places = _source_lines(code)
        self.layouts = dict(re.findall(r"^(#\w+) = (#ttg?\.\w+<.*>)", code, re.MULTILINE))
        warps = re.search(r'"ttg.num-warps" = (\d+)', code)
        lanes = re.search(r'"ttg.threads-per-warp" = (\d+)', code)
        self.threads = int(warps[1]) * int(lanes[1]) if warps and lanes else 1
        self.grid = grid
        self.values: dict[str, int] = {name: int(v) for name, v in arguments.items() if isinstance(v, int)}
        self.roots: dict[str, str] = {}
        self.read_bytes: dict[str, float] = {}
        self.written_bytes: dict[str, float] = {}
        self.scopes = [_Scope(Region())]

    def read(self) -> Function:
        body = self.scopes[0].region
        inside = False
        for text in self.code.splitlines():
            line = _LOCATION.sub("", text).strip()
            if line.startswith("tt.func public"):
                self.roots |= {name: name for name in re.findall(r"%(\w+): !tt\.ptr", line)}
                inside = True
            elif not inside or line.startswith("^"):
                continue
            elif line.startswith("}"):
                scope = self.scopes.pop()
                if line.startswith("} else"):
                    self.scopes.append(_Scope(scope.region, scope.otherwise, scope.results, counted=scope.counted))
                if not self.scopes:
                    break
            elif match := _LINE.fullmatch(line):
                self._operation(match["op"], match["results"] or "", match["rest"])
                place = self.places.get(text.rpartition("loc(")[2].rstrip(")"))
                if place is not None:
                    self.scopes[-1].region.lines.add(place)
        return Function(body, self.read_bytes, self.written_bytes)

    def _operation(self, op: str, results: str, rest: str) -> None:
        name = results.partition(":")[0].lstrip("%")
        operands = [operand[1:] for operand in _NAME.findall(rest.partition(" : ")[0])]
        if op == "scf.for":
            self._enter_loop(name, rest)
        elif op == "scf.if":
            condition = self.values.get(operands[0])
            then, otherwise = condition is None or bool(condition), not condition
            self._enter(_Scope(self.scopes[-1].region, then, _names(results), otherwise))
        elif op.startswith("scf.") and rest.endswith("{"):
            raise ValueError(f"{op} has no trip count that follows from the arguments")
        elif rest.endswith("({"):
            self._enter(_Scope(self.scopes[-1].region, counted=False))
        elif op == "scf.yield":
            self._yield(operands)
        elif self.scopes[-1].counted:
            self._evaluate(op, name, operands, rest)
            if op in _KEEPS_POINTER or op == "tt.advance":
                for operand in operands:
                    if operand in self.roots:
                        self.roots[name] = self.roots[operand]
                        break
            self._count(op, operands, rest)

    def _enter(self, scope: _Scope) -> None:
        scope.counted &= self.scopes[-1].counted
        scope.taken &= self.scopes[-1].taken
        scope.otherwise &= self.scopes[-1].taken
        self.scopes.append(scope)

    def _enter_loop(self, name: str, rest: str) -> None:
        match = _FOR.search(rest)
        assert match is not None
        start, stop, step = (self.values.get(match[i].lstrip("%")) for i in (2, 3, 4))
        if start is None or stop is None or step is None:
            raise ValueError(f"the trip count of the loop over %{match[1]} does not follow from the arguments")
        region = Region(max(0, -(-(stop - start) // step)) if self.scopes[-1].taken else 0)
        self.scopes[-1].region.loops.append(region)
        self.values[match[1]] = start
        carried = _ITERATED.findall(rest.partition("iter_args(")[2])
        for i, (argument, initial) in enumerate(carried):
            for result in (argument, name if len(carried) == 1 else f"{name}#{i}"):
                self._copy(initial[1:], result)
        self._enter(_Scope(region))

    def _copy(self, source: str, target: str) -> None:
        if source in self.values:
            self.values[target] = self.values[source]
        if source in self.roots:
            self.roots[target] = self.roots[source]

    def _yield(self, operands: list[str]) -> None:
        scope = self.scopes[-1]
        if scope.taken:
            for result, operand in zip(scope.results, operands, strict=False):
                self._copy(operand, result)

    def _evaluate(self, op: str, name: str, operands: list[str], rest: str) -> None:
        if "tensor<" in rest:
            return
        values = [self.values[operand] for operand in operands if operand in self.values]
        if op == "arith.constant":
            match = re.match(r" (-?\d+|true|false) ?(?::|$)", rest)
            if match is not None:
                self.values[name] = int(match[1] == "true") if match[1].isalpha() else int(match[1])
        elif op == "tt.get_program_id":
            self.values[name] = 0
        elif op == "tt.get_num_programs":
            axis = "xyz".index(rest.split()[0])
            self.values[name] = self.grid[axis] if axis < len(self.grid) else 1
        elif len(values) < len(operands) or not operands:
            return
        elif op in _CASTS:
            self.values[name] = values[0]
        elif op == "arith.select":
            self.values[name] = values[1] if values[0] else values[2]
        elif op == "arith.cmpi":
            self.values[name] = int(_COMPARE[rest.split(",")[0].strip()[-2:]](*values))
        elif match := _INTEGER.fullmatch(op):
            self.values[name] = _ARITHMETIC[match[1]](*values)

    def _count(self, op: str, operands: list[str], rest: str) -> None:
        scope = self.scopes[-1]
        if not scope.taken:
            return
        kind = rest.rpartition(" : ")[2].rpartition("-> ")[2]
        if op in _EXPS:
            scope.region.exps += self._elements(kind)
        elif op in _FLOPS:
            scope.region.flops += _FLOPS[op] * self._elements(kind)
        elif op in ("tt.load", "tt.store") and operands[0] in self.roots:
            requested = self.read_bytes if op == "tt.load" else self.written_bytes
            element = re.search(r"!tt\.ptr<(\w+)>", kind)
            assert element is not None
            size = self._elements(kind) * _BYTES[element[1]]
            runs = math.prod(s.region.trips for i, s in enumerate(self.scopes) if _opens(self.scopes, i))
            root = self.roots[operands[0]]
            requested[root] = requested.get(root, 0) + runs * size

    def _elements(self, kind: str) -> float:
        """Elements of a type, per thread where it has a layout."""
        match = re.search(r"tensor<((?:\d+x)+)[^,]*?(?:, (#.*))?>$", kind.strip())
        if match is None:
            return 1
        shape = [int(size) for size in match[1].split("x")[:-1]]
        if match[2] is None:
            return math.prod(shape)
        layout = str(self.layouts.get(match[2], match[2]))
        if layout.startswith("#ttg.linear"):
            registers = re.search(r"register = \[(.*?)\], lane", layout)
            return 2 ** (registers[1].count("[") if registers else 0)
        tiles = self._tiles(layout)
        if tiles is None:
            return max(1.0, math.prod(shape) / self.threads)
        return math.prod(each * -(-size // (each * across)) for size, (each, across) in zip(shape, tiles, strict=True))

    def _tiles(self, layout: str) -> list[tuple[int, int]] | None:
        """Per dimension of a blocked layout or a slice of one: elements of a thread, threads; else None."""
        layout = self.layouts.get(layout, layout)
        if match := re.fullmatch(r"#ttg\.slice<\{dim = (\d+), parent = (.*)\}>", layout):
            tiles = self._tiles(match[2])
            return None if tiles is None else [tile for d, tile in enumerate(tiles) if d != int(match[1])]
        lists = [
            re.search(rf"{key} = \[([\d, ]+)\]", layout) for key in ("sizePerThread", "threadsPerWarp", "warpsPerCTA")
        ]
        if any(found is None for found in lists):
            return None
        each, lanes, warps = ([int(n) for n in found[1].split(",")] for found in lists if found is not None)
        return [(e, t * w) for e, t, w in zip(each, lanes, warps, strict=True)]


def _source_lines(code: str) -> dict[str, int]:
    """Line of the kernel's own function for each location alias; inlined functions count where they are called."""
    aliases = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", code, re.MULTILINE))

    def line(location: str) -> int | None:
        if location.startswith("#"):
            return line(aliases[location])
        if match := re.fullmatch(r"callsite\(.* at (#loc\d*)\)|\"[^\"]*\"\((#loc\d*)\)", location):
            return line(match[1] or match[2])
        match = re.fullmatch(r"\"[^\"]*\":(\d+):\d+", location)
        return int(match[1]) if match else None

    return {alias: found for alias in aliases if (found := line(alias))}


def _names(results: str) -> list[str]:
    """Names of an operation's results: ``%a`` is one, ``%a:2`` are a#0 and a#1."""
    name, _, number = results.lstrip("%").partition(":")
    if not name:
        return []
    return [f"{name}#{i}" for i in range(int(number))] if number else [name]


def _opens(scopes: list[_Scope], index: int) -> bool:
    """Whether a scope is the first that holds its region."""
    return index == 0 or scopes[index].region is not scopes[index - 1].region
