"""One loader for backbone weights: this package's files and the reference's, safetensors or pickled."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dynamicvis.backbone.model import resize_position_embedding

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
_CONTAINERS = ("state_dict", "model", "module")
_PREFIXES = ("module.", "model.", "backbone.")
# What a run of MMEngine pickles besides tensors: the history of its log, in NumPy's numbers and by its methods' names.
_DISCARDED = (
    "builtins.getattr",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)
_FIRST_CONVOLUTION = "stages.0.merge.projection.weight"
_POSITION = "pos_embed"


class CheckpointError(ValueError):
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
        lines += [f"unexpected {name}" for name in self.unexpected]
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

    Keys may carry the prefixes ``module.``, ``model.`` and ``backbone.``, and stand inside or outside ``state_dict``.
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
        CheckpointError: the file is missing, unreadable, needs code to unpickle, holds another architecture, or,
            when ``strict``, lacks parameters. The backbone is then unchanged.
    """
    path = Path(path)
    source = {rename_reference_key(key): value for key, value in read_tensors(path).items()}
    target = backbone.state_dict()
    adapted: dict[str, str] = {}
    loaded: dict[str, torch.Tensor] = {}
    for name, parameter in target.items():
        if name not in source:
            continue
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

    Of a run of MMEngine, which also holds the history of its log, that history is dropped unread.

    Args:
        path: ``.safetensors``, or a pickled file with the tensors on top or in ``state_dict``, ``model`` or ``module``.

    Raises:
        CheckpointError: the file is missing, unreadable or without tensors, or holds objects of unknown kinds.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"checkpoint {path} is truncated or no safetensors file ({error})") from error
    try:
        with torch.serialization.safe_globals([(_Discarded, name) for name in _DISCARDED]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint {path} holds objects other than tensors, which could run code when loaded, or is no "
            "checkpoint. If you trust its origin: torch.save({'state_dict': torch.load(path, weights_only=False)"
            "['state_dict']}, 'clean.pth'), and load clean.pth"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"checkpoint {path} is truncated or no torch file ({error})") from error
    for container in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    tensors = (
        {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise CheckpointError(f"checkpoint {path} holds no tensors")
    return tensors


class _Discarded:
    """Takes the place of an object in a checkpoint that nobody needs: made of anything, holding nothing."""

    def __init__(self, *arguments: object) -> None: ...

    def __new__(cls, *arguments: object) -> _Discarded:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None: ...


def _adapt(name: str, value: torch.Tensor, backbone: DynamicVis) -> torch.Tensor:
    if name == _POSITION and value.ndim == 3:
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
