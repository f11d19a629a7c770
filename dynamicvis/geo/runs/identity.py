"""What tells one function or model from another, the same in every process."""

from __future__ import annotations

import copyreg
import dis
import hashlib
import importlib.util
import sys
import sysconfig
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

_ATOMS = (type(None), bool, int, float, complex, str, bytes, types.EllipsisType, types.NotImplementedType, range)
_LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event)
_CACHED = type(cache(len))  # what ``functools.cache`` and ``lru_cache`` make
_NAMES_READ = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_OURS = ("dynamicvis", "dynamicvis_kernels")
_SKIPPED = ("_abc_impl",)  # of a class: caches that fill while it is used
# What torch.compile, and Lightning around it, leave on the module they were given: how it was compiled, not what it is.
_COMPILED = ("_is_torch_compile", "_compile_kwargs")


@dataclass(frozen=True)
class Identity:
    """What identifies a function or a model.

    Attributes:
        parts: hexadecimal digest by the name of the part, such as ``"code"`` or ``"variable threshold"``.
        unknown: what cannot be compared with that of another process, in words; None when all can.
    """

    parts: Mapping[str, str]
    unknown: str | None


def identify(value: Any) -> Identity:
    """Identify a function or a model by what its results depend on.

    A string attribute ``digest`` stands for the whole, where there is one. Else: of a function its byte code, default
    values, closure, and the values of the global names that the code reads, functions and classes among them in the
    same way; of an object its class and its state, as pickling sees it; of arrays and tensors type, shape and values.
    What belongs to an installed package counts by its name and the package's version.

    What a file, an environment variable or a network service tells the function is not seen.
    """
    if (given := _own_digest(value)) is not None:
        return Identity({"digest": given}, None)
    walk = _Walk()
    parts: dict[str, str] = {}
    for name, part in _parts(walk, value):
        # A method and the object it is bound to may have parts of the same name.
        parts[name] = parts.get(name, "") + part().hex()
    return Identity(parts, walk.unknown)


def _parts(walk: _Walk, value: Any) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The parts that a user can name, so that a message can say which one differs."""
    if isinstance(value, partial):
        yield from _parts(walk, value.func)
        yield "arguments of partial", lambda: walk.digest((value.args, value.keywords))
    elif isinstance(value, types.MethodType):
        yield from _parts(walk, value.__func__)
        yield from _parts(walk, value.__self__)
    elif _compiled_from(value) is not None:
        yield from _parts(walk, _compiled_from(value))
    elif isinstance(value, types.FunctionType) and not _is_library(_home(value)):
        yield "code", lambda: walk.digest(value.__code__)
        yield "default values", lambda: walk.digest((value.__defaults__, value.__kwdefaults__))
        for name, content in sorted(_variables(value).items()):
            yield f"variable {name}", partial(walk.variable, name, content, value.__code__)
    else:
        yield type(value).__qualname__, lambda: walk.digest(value)


class _Walk:
    """Digests of values, and what was met that has none."""

    def __init__(self) -> None:
        self.unknown: str | None = None
        self._done: dict[int, tuple[Any, bytes]] = {}  # with the value, so that its id is not given to another one
        self._atoms: dict[tuple[type, str | bytes], bytes] = {}  # by their text: 0.0 is not -0.0, and 1 not True
        self._open: list[int] = []
        self._names: list[str] = []

    def digest(self, value: Any) -> bytes:
        """Digest of a value; two values with the same one are the same to any function."""
        if type(value) in _ATOMS:  # a subclass may have a state of its own
            text = value if isinstance(value, bytes) else repr(value)
            found = self._atoms.get((type(value), text))
            if found is None:
                found = self._atoms[type(value), text] = _hash(type(value).__name__, text)
            return found
        key = id(value)
        if key in self._done:
            return self._done[key][1]
        if key in self._open:
            return _hash("cycle", str(len(self._open) - self._open.index(key)))
        self._open.append(key)
        try:
            result = self._look(value)
        except RecursionError:
            result = self._give_up(value)
        finally:
            self._open.pop()
        self._done[key] = value, result
        return result

    def variable(self, name: str, content: Any, code: types.CodeType) -> bytes:
        """Digest of what a variable holds; of a module, what the code reads of it."""
        with self._named(name):
            if isinstance(content, types.ModuleType):
                return self._module(content, code)
            return self.digest(content)

    def _look(self, value: Any) -> bytes:
        kind = type(value)
        if kind in (tuple, list):
            return _hash(kind.__name__, *map(self.digest, value))
        if kind in (set, frozenset):
            return _hash("set", *sorted(map(self.digest, value)))
        if kind in (dict, types.MappingProxyType):
            return self._mapping(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if isinstance(value, bytearray | memoryview):
            return _hash("bytes", bytes(value))
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(value, torch)
        if isinstance(value, types.CodeType):
            return self._code(value)
        if (inner := _compiled_from(value)) is not None:
            return _hash("compiled", self.digest(inner))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return _hash("method", self.digest(value.__func__), self.digest(value.__self__))
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            return _hash("module", _library_name(value.__name__, ""), _source_digest(value.__name__))
        return self._object(value)

    def _array(self, value: Any) -> bytes:
        if value.dtype.hasobject:
            content: bytes | memoryview = self.digest(value.tolist())
        else:
            dense = np.ascontiguousarray(value)
            # Times, for one, have no buffer; empty arrays no flat one.
            content = dense.reshape(-1).view(np.uint8).data if dense.nbytes else b""
        parts = ("array", repr(value.dtype.descr), repr(value.shape), content)
        if type(value) is np.ndarray or isinstance(value, np.generic | np.memmap):
            return _hash(*parts)
        return _hash(*parts, self.digest(type(value)), self._mapping(getattr(value, "__dict__", {}), attributes=True))

    def _object(self, value: Any) -> bytes:
        kind = type(value)
        if isinstance(value, partial):
            return _hash("partial", *map(self.digest, (value.func, value.args, value.keywords)))
        if isinstance(value, staticmethod | classmethod):
            return _hash(kind.__name__, self.digest(value.__func__))
        if isinstance(value, property):
            return _hash("property", *map(self.digest, (value.fget, value.fset, value.fdel)))
        if isinstance(value, types.CellType):
            return self.digest(_content(value))
        if isinstance(value, weakref.ReferenceType):
            return self.digest(value())
        if isinstance(value, _LOCKS):
            return _hash("lock")
        if (given := _own_digest(value)) is not None:
            return _hash("digest", given)
        if isinstance(value, _CACHED):
            return _hash("cached", self.digest(value.__wrapped__))
        if _is_library(kind.__module__) and (inner := _attribute(value, "py_func")) is not None:  # of numba
            options = _attribute(value, "targetoptions")
            return _hash("wrapped", *map(self.digest, (kind.__name__, inner, options)))
        if (graph := _attribute(value, "inlined_graph")) is not None:  # of TorchScript
            state = dict(value.state_dict()) if hasattr(value, "state_dict") else {}
            return _hash("script", str(graph), self.digest(state))
        try:
            reducer = copyreg.dispatch_table.get(kind)
            reduced = value.__reduce_ex__(4) if reducer is None else reducer(value)
        except Exception:  # whatever the class raises where it cannot be pickled
            return self._give_up(value)
        if isinstance(reduced, str):
            return _hash("name", _library_name(getattr(value, "__module__", None) or "builtins", reduced))
        maker, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        return _hash(
            "object",
            self.digest(maker),
            self.digest(arguments),
            self._mapping(state, attributes=True) if isinstance(state, dict) else self.digest(state),
            self.digest(None if items is None else list(items)),
            self.digest(None if pairs is None else dict(pairs)),
        )

    def _give_up(self, value: Any) -> bytes:
        if self.unknown is None:
            kind = type(value)
            place = f" ({'.'.join(self._names)})" if self._names else ""
            self.unknown = f"{kind.__module__}.{kind.__qualname__}{place}"
        return _hash("unknown")

    def _mapping(self, value: Mapping[Any, Any], *, attributes: bool = False) -> bytes:
        entries = []
        for key, content in value.items():
            if not (attributes and isinstance(key, str)):
                entries.append((self.digest(key), self.digest(content)))
            elif key not in _COMPILED:
                with self._named(key):
                    entries.append((self.digest(key), self.digest(content)))
        # A function may number the entries of a dictionary; attributes are read by their names.
        return _hash("mapping", *(part for entry in (sorted(entries) if attributes else entries) for part in entry))

    def _tensor(self, value: Any, torch: Any) -> bytes:
        try:
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantised, without memory
            return self._give_up(value)
        return _hash("tensor", str(value.dtype), repr(tuple(value.shape)), value.device.type, flat.data)

    def _function(self, value: types.FunctionType) -> bytes:
        own = (value.__defaults__, value.__kwdefaults__, value.__dict__ or None)
        if _is_library(_home(value)):
            cells = [_content(cell) for cell in value.__closure__ or ()]
            return _hash("function", _library_name(_home(value), value.__qualname__), *map(self.digest, (own, cells)))
        variables = [
            part
            for name, content in sorted(_variables(value).items())
            for part in (name, self.variable(name, content, value.__code__))
        ]
        return _hash("function", self.digest(value.__code__), self.digest(own), *variables)

    def _code(self, code: types.CodeType) -> bytes:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        exceptions = getattr(code, "co_exceptiontable", b"")
        imports = [_source_digest(name) for name in _imported(code)]
        return _hash("code", code.co_code, exceptions, repr(counts), repr(names), self.digest(code.co_consts), *imports)

    def _class(self, value: type) -> bytes:
        if _is_library(value.__module__):
            # Classes that a library makes at run time may derive from the user's.
            return _hash(
                "class", _library_name(value.__module__, value.__qualname__), *map(self.digest, value.__bases__)
            )
        attributes = {
            name: content
            for name, content in vars(value).items()
            if name not in _SKIPPED
            and (
                not name.startswith("__")
                or name == "__call__"
                or isinstance(content, types.FunctionType | staticmethod | classmethod)
            )
        }
        return _hash(
            "class", value.__qualname__, *map(self.digest, value.__bases__), self._mapping(attributes, attributes=True)
        )

    def _module(self, module: types.ModuleType, code: types.CodeType) -> bytes:
        if _is_library(module.__name__):
            return _hash("module", _library_name(module.__name__, ""))
        found = [(name, vars(module)[name]) for name in sorted(_all_names(code)) if name in vars(module)]
        # A package and its modules may name each other.
        if id(module) in self._open:
            return _hash("module")
        self._open.append(id(module))
        try:
            return _hash(
                "module", *(part for name, value in found for part in (name, self.variable(name, value, code)))
            )
        finally:
            self._open.pop()

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        self._names.append(name)
        try:
            yield
        finally:
            self._names.pop()


def _hash(*parts: str | bytes | memoryview) -> bytes:
    state = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(b"%d:" % memoryview(content).nbytes)
        state.update(content)
    return state.digest()[:16]


def _attribute(value: Any, name: str) -> Any:
    """An attribute of any object, None where it has none or does not give it."""
    try:
        return getattr(value, name, None)
    except Exception:  # whatever a property of somebody else's raises
        return None


def _own_digest(value: Any) -> str | None:
    given = _attribute(value, "digest")
    return given if isinstance(given, str) and given else None


def _home(function: types.FunctionType) -> str:
    """Name of the module a function is written in; ``functools.wraps`` gives it the ``__module__`` of another one."""
    return str(function.__globals__.get("__name__", ""))


def _compiled_from(value: Any) -> Any:
    """What ``torch.compile`` made a function or module from; what it made is not the same in every process."""
    if isinstance(value, types.FunctionType):
        return getattr(value, "_torchdynamo_orig_callable", None)
    return value._orig_mod if type(value).__name__ == "OptimizedModule" else None


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _variables(function: types.FunctionType) -> dict[str, Any]:
    """Values that a function's code reads and does not make: its closure, and its global names."""
    names = {name for code in _codes(function.__code__) for name in _globals_read(code)}
    found = {name: function.__globals__[name] for name in names if name in function.__globals__}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return found | {name: _content(cell) for name, cell in cells}


def _globals_read(code: types.CodeType) -> Iterable[str]:
    return {step.argval for step in dis.get_instructions(code) if step.opname in _NAMES_READ}


def _imported(code: types.CodeType) -> list[str]:
    return sorted({step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME"})


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and all that are defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _all_names(code: types.CodeType) -> set[str]:
    return {name for inner in _codes(code) for name in inner.co_names}


def _source_digest(name: str) -> bytes:
    """Of the file of a module that a function imports when it runs, where the file is the user's."""
    if not name or _is_library(name):
        return _hash(name)
    try:
        spec = importlib.util.find_spec(name)
        return _hash(name, Path(spec.origin).read_bytes() if spec is not None and spec.origin else b"")
    except (ImportError, ValueError, OSError):
        return _hash(name)


@cache
def _is_library(name: str | None) -> bool:
    """Whether a module belongs to Python or to an installed package, and so follows from its version."""
    top = (name or "").partition(".")[0]
    if top in sys.builtin_module_names or top in _OURS:
        return True
    if top in ("", "__main__"):
        return False
    # A file of the user's may have the name of a module of Python, such as code.py or profile.py.
    origin = getattr(getattr(sys.modules.get(top), "__spec__", None), "origin", None)
    if top in sys.stdlib_module_names and origin in (None, "built-in", "frozen"):
        return True
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    roots = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")]
    return any(
        Path(place).resolve().is_relative_to(root) or "site-packages" in Path(place).parts
        for place in places
        if place not in (None, "namespace")
        for root in roots
    )


def _library_name(module: str, name: str) -> str:
    package = sys.modules.get(module.partition(".")[0])
    version = "" if package is None else vars(package).get("__version__", "")
    return f"{module}.{name} {version}"
