"""Checkpoints, read without running anything: weights of a backbone from any wrapper, and whole states of a run."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dynamicvis.backbone.inference import check_materialized
from dynamicvis.backbone.model import resize_position_embedding
from dynamicvis.errors import DynamicVisError
from dynamicvis.tensors import tensor_problem, weight_problem
from dynamicvis.text import printable

if TYPE_CHECKING:
    from dynamicvis.backbone import DynamicVis

_logger = logging.getLogger(__name__)

# Reference layout -> ours. The reference numbers merge, blocks and norm of a stage 0, 1 and 2.
_RENAMES = (
    (re.compile(r"^layers\.(\d+)\.0\."), r"stages.\1.merge."),
    (re.compile(r"^layers\.(\d+)\.1\.(\d+)\."), r"stages.\1.blocks.\2."),
    (re.compile(r"^layers\.(\d+)\.2\."), r"stages.\1.norm."),
    (re.compile(r"\.spatial_gate\."), ".router."),
    (re.compile(r"\.spatial_mamba_mixer\.pre_norm\."), ".norm."),
    (re.compile(r"\.spatial_mamba_mixer\.mamba_layer\."), ".mixer."),
)
# Where a file keeps its weights. The averaged ones come first: who keeps them means them to be used.
_CONTAINERS = ("state_dict_ema", "model_ema", "ema_model", "ema", "state_dict", "model", "module")
_PREFIXES = ("module.", "model.", "backbone.")
# What torch.compile, FSDP and activation checkpointing put into the names of whatever they wrap.
_MARKS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module)\.")
_HOLDERS = ("module.", "model.", "_forward_module.")
_AVERAGES = ("ema_model.", "model_ema.", "ema.")
_COUNTER = "n_averaged"  # of torch's AveragedModel
_FIRST_CONVOLUTION = "stages.0.merge.projection.weight"
_POSITION = "pos_embed"


class CheckpointError(DynamicVisError):
    """A checkpoint that cannot be loaded; the message names the file and the way out."""


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint gave.

    Attributes:
        matched: names of the parameters that were loaded.
        missing: names of the backbone's parameters that the file lacks.
        unexpected: names in the file that are not the backbone's.
        adapted: names of loaded parameters whose shape was changed, with the change.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    adapted: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} matched, {len(self.missing)} missing, {len(self.unexpected)} unexpected"]
        lines += [f"adapted {name}: {change}" for name, change in self.adapted.items()]
        lines += [f"missing {name}" for name in self.missing]
        lines += [f"unexpected {printable(name)}" for name in self.unexpected]
        return "\n".join(lines)


def rename_reference_key(key: str) -> str:
    """The name, in this package, of a backbone parameter of the reference's key layout; others come back as they are.

    ``backbone.layers.0.1.0.spatial_gate.weight`` -> ``stages.0.blocks.0.router.weight``
    """
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if key.startswith(prefix):
                key, changed = key.removeprefix(prefix), True
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def load_checkpoint(
    backbone: DynamicVis, path: str | Path, *, strict: bool = True, optional: tuple[str, ...] = ()
) -> LoadReport:
    """Load the weights of a backbone from this package's or the reference's file.

    Keys may carry the prefixes of whatever wrapped the model, see `read_tensors`, and ``backbone.``.
    The position embedding is resampled to the backbone's grid. The first convolution is adapted to another number of
    bands: its kernel is averaged over the file's bands, repeated, and scaled to keep the response.

    Args:
        backbone: where the weights go.
        path: ``.safetensors``, or a pickled ``.pth`` that holds tensors only.
        strict: raise unless every parameter of the backbone is in the file.
        optional: beginnings of names that the file may lack all the same.

    Returns:
        What matched, what was missing, what was unexpected, and what was adapted.

    Raises:
        CheckpointError: the file is missing, unreadable, needs code to unpickle, holds another architecture, NaN,
            infinity or integers, or, when ``strict``, lacks parameters. The backbone is then unchanged.
        ValueError: the backbone lies on the device ``meta``.
    """
    path = Path(path)
    for parameter in backbone.parameters():
        check_materialized(parameter)
    source: dict[str, torch.Tensor] = {}
    for key, value in read_tensors(path).items():
        _add(source, rename_reference_key(key), value, path)
    target = backbone.state_dict()
    adapted: dict[str, str] = {}
    loaded: dict[str, torch.Tensor] = {}
    for name, parameter in target.items():
        if name not in source:
            continue
        if (problem := weight_problem(name, source[name], parameter)) is not None:
            raise CheckpointError(f"checkpoint {path}: {name} {problem}; give a checkpoint of a run that went well")
        value = _adapt(name, source[name].to(parameter.dtype), backbone)
        if value.shape != source[name].shape:
            adapted[name] = f"{tuple(source[name].shape)} -> {tuple(value.shape)}"
        if value.shape != parameter.shape:
            raise CheckpointError(
                f"{path} holds another architecture: {name} has shape {tuple(source[name].shape)}, "
                f"the backbone needs {tuple(parameter.shape)}; build the backbone that the file was made for"
            )
        loaded[name] = value
    report = LoadReport(
        matched=tuple(loaded),
        missing=tuple(name for name in target if name not in loaded),
        unexpected=tuple(name for name in source if name not in target),
        adapted=adapted,
    )
    missing = [name for name in report.missing if not name.startswith(optional)]
    if strict and missing:
        raise CheckpointError(
            f"{path} gives only {len(report.matched)} of the backbone's {len(target)} parameters "
            f"(first missing: {missing[0]}); check the architecture, or pass strict=False to load what is there"
        )
    backbone.load_state_dict(loaded, strict=False)
    _logger.info("%s: %s", path, report)
    return report


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, without running code from it.

    What wrappers put before and into the names is taken off: `torch.compile`, DistributedDataParallel, FSDP, Lightning,
    and averages of weights, in any nesting. Where a file holds averaged weights beside the trained ones, the averaged
    ones are given. Whatever else the file holds is dropped.

    Args:
        path: ``.safetensors``, or a pickled file with the tensors on top or in ``state_dict``, ``model``, ``module``,
            ``state_dict_ema``, ``model_ema``, ``ema_model`` or ``ema``.

    Raises:
        CheckpointError: the file is missing, unreadable or without tensors, holds objects of unknown kinds, tensors
            that are sparse, quantized or without memory, or two of other values whose names differ by a wrapper only.
    """
    path = Path(path)
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _unpickled(path, "cpu")
    tensors = _contained_tensors(content, _DEEPEST_CONTAINER)
    if not tensors:
        raise CheckpointError(f"checkpoint {path} holds no tensors")
    for name, value in tensors.items():
        if (problem := tensor_problem(value)) is not None:
            raise CheckpointError(f"checkpoint {path}: {printable(name)} {problem}; save it from a plain model again")
    return _unwrapped(tensors, path)


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> Any:
    """The whole content of a pickled checkpoint, without running code from it: for resuming a run.

    Besides tensors, numbers, text and containers of these, it may hold what MMEngine and the optimizers of torch save:
    NumPy's arrays and numbers, and histories of a log, which are made anew from their numbers.

    Args:
        path: file that `torch.save` wrote.
        map_location: as of `torch.load`.

    Raises:
        CheckpointError: the file is missing or unreadable, or holds objects of other kinds; the message says how to
            keep its weights all the same.
    """
    path = Path(path)
    content = _unpickled(path, map_location)
    try:
        return _restored(content, {})
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged ({printable(str(error))})") from error


_DEEPEST_CONTAINER = 4  # containers in one another: {"model": {"state_dict": ...}}


def _contained_tensors(content: Any, depth: int) -> dict[str, torch.Tensor]:
    """The tensors of the first container that holds some, ``depth`` levels down, else those of the content itself."""
    if not isinstance(content, Mapping):
        return {}
    for name in _CONTAINERS if depth else ():
        if tensors := _contained_tensors(content.get(name), depth - 1):
            return tensors
    return {
        key: _without_attributes(value)
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }


def _without_attributes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as torch made it: a file may give it attributes, which would hide its methods."""
    return torch.Tensor.detach(tensor) if tensor.__dict__ else tensor


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _require_file(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {path} is truncated or no safetensors file ({printable(str(error))})"
        ) from error


def _require_file(path: Path) -> None:
    try:
        present = path.is_file()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    if not present:
        raise CheckpointError(f"checkpoint {path} does not exist")


def _archive_problem(path: Path) -> str | None:
    """What is wrong with the parts of a checkpoint, in a few words, or None; torch does not look at it."""
    try:
        with zipfile.ZipFile(path) as file:
            # A few bytes may hold gigabytes of zeros so.
            compressed = [part.filename for part in file.infolist() if part.compress_type != zipfile.ZIP_STORED]
            if compressed:
                return f"{printable(compressed[0])} is compressed, which torch never does"
            part = file.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error):
        return None  # for the reader to say: one cut off, or torch's format without checksums
    return None if part is None else f"the checksum of {printable(part)} does not fit"


def _unpickled(path: Path, map_location: Any) -> Any:
    """Content of a file, with stand-ins for the objects that `_STAND_INS` names; any other kind is refused."""
    _require_file(path)
    if (problem := _archive_problem(path)) is not None:
        raise CheckpointError(f"checkpoint {path} is damaged: {problem}; get it anew")
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        command = (
            f"import torch; torch.save({{'state_dict': torch.load({str(path)!r}, weights_only=False)['state_dict']}}, "
            "'clean.pth')"
        )
        raise CheckpointError(
            f"checkpoint {path} holds objects other than tensors{f' ({printable(kind[1])})' if kind else ''}, which "
            "could run code when loaded, or is no checkpoint. If you trust its origin, keep its weights alone: "
            f'python -c "{command}", and give clean.pth'
        ) from error
    except Exception as error:  # torch's reader raises whatever a damaged stream leads it to
        raise CheckpointError(
            f"checkpoint {path} is truncated or no torch file ({printable(str(error) or type(error).__name__)})"
        ) from error


def _unwrapped(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Tensors by their names without wrappers, averaged ones in place of trained ones of the same name."""
    trained: dict[str, torch.Tensor] = {}
    averaged: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        name, average = _bare(key)
        if name.rpartition(".")[2] == _COUNTER:
            continue
        _add(averaged if average else trained, name, value, path)
    return trained | averaged


def _bare(key: str) -> tuple[str, bool]:
    """A name without wrappers, and whether it is that of averaged weights."""
    key, average = _MARKS.sub("", key), False
    while True:
        prefix = next((prefix for prefix in (*_HOLDERS, *_AVERAGES) if key.startswith(prefix)), None)
        if prefix is None:
            return key, average
        key, average = key.removeprefix(prefix), average or prefix in _AVERAGES


def _add(tensors: dict[str, torch.Tensor], name: str, value: torch.Tensor, path: Path) -> None:
    """Put a tensor under a name, which no other may have."""
    if name in tensors and not (tensors[name].shape == value.shape and torch.equal(tensors[name], value)):
        raise CheckpointError(
            f"checkpoint {path} holds {printable(name)} twice, with other values and below other prefixes; keep the "
            "weights of one model"
        )
    tensors[name] = value


class _StandIn:
    """Takes the place of an object in a checkpoint: made of anything, keeping its arguments and state."""

    state: Any = None

    def __new__(cls, *arguments: Any) -> _StandIn:
        made = super().__new__(cls)
        made.arguments = arguments
        return made

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dropped(_StandIn):
    """What nobody needs."""


class _Dtype(_StandIn):
    """A type of NumPy's: name of the type, and in its state the order of bytes."""

    def restored(self) -> np.dtype[Any]:
        name, order = str(self.arguments[0]), str(self.state[1]) if self.state else "="
        if not re.fullmatch(r"[biufc]\d{1,2}|[SU]\d{1,6}", name) or order not in ("<", ">", "|", "="):
            raise ValueError(f"arrays of type {name}")
        return np.dtype(order + name)


class _Array(_StandIn):
    """An array of NumPy's: version, shape, type, whether columns come first, and bytes."""

    def restored(self) -> np.ndarray[Any, Any]:
        _, shape, kind, by_columns, content = self.state
        values = np.frombuffer(_bytes(content), kind.restored())
        return values.reshape(shape, order="F" if by_columns else "C").copy()


class _Scalar(_StandIn):
    """A number of NumPy's: type and bytes."""

    def restored(self) -> np.generic:
        kind, content = self.arguments
        (value,) = np.frombuffer(_bytes(content), kind.restored())
        return value


class _History(_StandIn):
    """A history of MMEngine's log: two arrays and their largest length."""

    def restored(self) -> Any:
        from mmengine.logging import HistoryBuffer

        values, counts, longest = (self.state[name] for name in ("_log_history", "_count_history", "max_length"))
        return HistoryBuffer(values.restored(), counts.restored(), int(longest))


def _bytes(content: Any) -> bytes:
    if not isinstance(content, bytes):
        raise TypeError("arrays of objects")
    return content


_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
# Classes by the names that files give them. Attributes of a class, its methods, are named by getattr.
_STAND_INS: list[Any] = [
    (_Dropped, "argparse.Namespace"),
    (_Dropped, "builtins.getattr"),
    *((_Dropped, f"{module}.{kind}Path") for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
    (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_Array, f"{core}._reconstruct") for core in _CORES),
    *((_Scalar, f"{core}.scalar") for core in _CORES),
]


def _restored(value: Any, known: dict[int, tuple[Any, Any]]) -> Any:
    """``value`` with objects in place of their stand-ins, dictionaries and lists changed in place.

    ``known`` holds what was restored already, by identity: a file may hold one object at many places.
    """
    if id(value) in known:
        return known[id(value)][1]
    if isinstance(value, dict):
        known[id(value)] = value, value
        items = [(_restored(key, known), _restored(entry, known)) for key, entry in value.items()]
        value.clear()
        for key, entry in items:  # not update, which a Counter counts by
            value[key] = entry
    elif isinstance(value, list):
        known[id(value)] = value, value
        value[:] = [_restored(entry, known) for entry in value]
    elif type(value) in (tuple, set, frozenset):
        known[id(value)] = value, type(value)(_restored(entry, known) for entry in value)
    elif isinstance(value, _Dropped):
        known[id(value)] = value, None
    elif isinstance(value, _StandIn):
        known[id(value)] = value, value.restored()  # type: ignore[attr-defined]
    elif isinstance(value, torch.Tensor):
        known[id(value)] = value, _without_attributes(value)
    else:
        return value
    return known[id(value)][1]


def _adapt(name: str, value: torch.Tensor, backbone: DynamicVis) -> torch.Tensor:
    if name == _POSITION and value.ndim == 3 and value.shape[0] == 1:
        return fit_position_embedding(value, backbone.grid)
    if name == _FIRST_CONVOLUTION and value.ndim == 4 and value.shape[1] != backbone.in_channels:
        mean = value.mean(dim=1, keepdim=True)
        return mean.expand(-1, backbone.in_channels, -1, -1) * (value.shape[1] / backbone.in_channels)
    return value


def fit_position_embedding(value: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(1, tokens, dim) resampled to ``grid`` where it is of another size; as it is where that size is not a square."""
    tokens = value.shape[1]
    if tokens == grid[0] * grid[1]:
        return value
    edge = round(tokens**0.5)
    return resize_position_embedding(value, (edge, edge), grid) if edge * edge == tokens else value
