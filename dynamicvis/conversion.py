"""From the reference's checkpoints to this package's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamicvis.backbone import create_backbone
from dynamicvis.backbone.variants import VARIANTS
from dynamicvis.checkpoint import CheckpointError, read_tensors, rename_reference_key
from dynamicvis.files import replacing
from dynamicvis.tensors import weight_problem
from dynamicvis.text import printable

_MERGE = re.compile(r"^stages\.(\d{1,4})\.merge\.projection\.weight$")
_BLOCK = re.compile(r"^stages\.(\d{1,4})\.blocks\.(\d{1,4})\.")
_POOL_NORM = "post_meanpool_norm."


@dataclass
class Part:
    """How the tensors of one part of a model fit what this package builds for it.

    Attributes:
        name: prefix of the part.
        matched: tensors with a known name and the right shape.
        missing, unexpected: names.
        reshaped: names, with the shape found and the shape needed.
    """

    name: str
    matched: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.matched} matched, {len(self.missing)} missing, {len(self.unexpected)} unexpected"]
        for kind in ("missing", "unexpected", "reshaped"):
            lines += [f"  {kind} {name}" for name in getattr(self, kind)]
        return "\n".join(lines)


@dataclass
class ConversionReport:
    """What was converted.

    Attributes:
        backbone: settings that `dynamicvis.create_backbone` builds the file's backbone with.
        parts: backbone, and pyramid, region features and head of a pretraining where the file has them.
        kept: number of further tensors, taken over under their names: heads of mmdet, mmseg and mmpretrain.
    """

    backbone: dict[str, Any]
    parts: list[Part]
    kept: int

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.backbone.items())
        lines = [f"backbone of {settings}", *map(str, self.parts)]
        return "\n".join([*lines, f"{self.kept} other tensors kept as they are"] if self.kept else lines)


def convert_reference(source: str | Path, out: str | Path) -> ConversionReport:
    """Write a checkpoint of the reference in this package's names.

    The backbone's tensors are renamed below ``backbone.``; pyramid (``pre_neck.``), region features (``neck.``) and
    head (``head.``) have the same names in both. ``backbone.post_meanpool_norm`` of a classifier becomes
    ``neck.post_meanpool_norm``. The history of the run is dropped.

    Args:
        source: checkpoint of the reference.
        out: ``.pth``, as MMEngine's ``load_from`` and ``init_cfg`` take it, or ``.safetensors``; replaced if it exists.

    Returns:
        What matched.

    Raises:
        CheckpointError: ``source`` cannot be read, is no checkpoint of the reference, or matches no architecture; or
            ``out`` is ``source`` or has another suffix. Nothing is then written.
    """
    source, out = Path(source), Path(out)
    if out.suffix not in (".pth", ".safetensors"):
        raise CheckpointError(f"{out} must end in .pth or .safetensors")
    if out.resolve() == source.resolve():
        raise CheckpointError(f"{out} is the checkpoint itself; give another name for the result")
    tensors = read_tensors(source)
    for name, value in tensors.items():
        if (problem := weight_problem(name, value)) is not None:
            raise CheckpointError(f"{source}: {printable(name)} {problem}; give a checkpoint of a run that went well")
    backbone, others = _split(tensors, source)
    settings = _settings(backbone, source)
    with torch.device("meta"):
        expected = create_backbone(**settings).state_dict()
    parts = [_compare("backbone", backbone, expected)]
    if not parts[0].complete:
        raise CheckpointError(
            f"{source} matches only {parts[0].matched} of {len(expected)} tensors of a backbone (such as "
            f"{(parts[0].missing + parts[0].unexpected + parts[0].reshaped)[0]}); variants of the reference with gated "
            "paths, Mamba-2 or channel mixers cannot be converted"
        )
    pretraining = _pretraining_parts(others, settings["dims"])
    for name, needed in pretraining.items():
        found = {key.removeprefix(f"{name}."): value for key, value in others.items() if key.startswith(f"{name}.")}
        parts.append(_compare(name, found, needed))
    incomplete = [part for part in parts if not part.complete]
    if incomplete:
        raise CheckpointError(f"{source} does not fit the pretraining's {incomplete[0]}")
    kept = sum(1 for key in others if not key.startswith(tuple(f"{name}." for name in pretraining)))
    _save(out, {f"backbone.{name}": value for name, value in backbone.items()} | others)
    return ConversionReport(settings | {"variant": _variant(settings)}, parts, kept)


def _split(tensors: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the backbone by our names, without prefix; and all others by theirs."""
    whole = any(key.startswith("backbone.") for key in tensors)
    backbone: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = key.removeprefix("backbone.")
        if name.startswith(_POOL_NORM):
            others[f"neck.{name}"] = value
        elif whole and not key.startswith("backbone."):
            others[key] = value
        else:
            backbone[rename_reference_key(key)] = value
    if any(key.removeprefix("backbone.").startswith("stages.") for key in tensors):
        raise CheckpointError(f"{source} is in this package's names already; use it as it is")
    if not any(_MERGE.match(name) for name in backbone):
        raise CheckpointError(
            f"{source} matches nothing of the reference: none of its {len(tensors)} tensors is called "
            "layers.0.0.projection.weight; give a checkpoint of the reference's pretraining or fine-tuning"
        )
    return backbone, others


def _settings(backbone: Mapping[str, Tensor], source: Path) -> dict[str, Any]:
    """Arguments of `create_backbone` that the shapes tell; keep ratios, which they do not, as released."""
    merges = {int(match[1]): value for name, value in backbone.items() if (match := _MERGE.match(name))}
    depths = [0, 0, 0, 0]
    for name in backbone:
        if match := _BLOCK.match(name):
            stage, block = int(match[1]), int(match[2])
            if stage < len(depths):
                depths[stage] = max(depths[stage], block + 1)
    embedding = backbone.get("pos_embed")
    edge = round(embedding.shape[1] ** 0.5) if embedding is not None and embedding.ndim == 3 else 0
    if (
        sorted(merges) != [0, 1, 2, 3]
        or any(merge.ndim != 4 or not merge.numel() for merge in merges.values())
        or 0 in depths
        or sum(depths) > len(backbone)
        or embedding is None
        or not edge
        or edge * edge != embedding.shape[1]
        or edge % 8
    ):
        raise CheckpointError(
            f"{source} holds part of a backbone: stages {sorted(merges)} of 0 to 3, blocks {depths}, position "
            f"embedding {'missing' if embedding is None else tuple(embedding.shape)}; give the whole checkpoint"
        )
    gated = [f"stages.{stage}.blocks.0.router.weight" in backbone for stage in range(4)]
    return {
        "dims": tuple(int(merges[stage].shape[0]) for stage in range(4)),
        "depths": tuple(depths),
        "keep_ratios": tuple(
            ratio if gate else None for ratio, gate in zip((1 / 8, 1 / 4, 1 / 2, 1.0), gated, strict=True)
        ),
        "in_channels": int(merges[0].shape[1]),
        "img_size": 4 * edge,
    }


def _variant(settings: Mapping[str, Any]) -> str:
    for name, variant in VARIANTS.items():
        if (variant["dims"], variant["depths"]) == (settings["dims"], settings["depths"]):
            return name
    return "none of the named"


def _pretraining_parts(others: Mapping[str, Tensor], dims: tuple[int, ...]) -> dict[str, dict[str, Tensor]]:
    """State dicts, without memory, of the parts of a pretraining that the file has."""
    from dynamicvis.pretraining import FeaturePyramid, RegionExtractor, RegionHead

    parts: dict[str, torch.nn.Module] = {}
    with torch.device("meta"):
        if any(key.startswith("pre_neck.") for key in others):
            parts["pre_neck"] = FeaturePyramid(dims)
        if any(key.startswith(("neck.pre_module.", "neck.post_module.")) for key in others):
            parts["neck"] = RegionExtractor()
        if "head.category_embedding.weight" in others:
            parts["head"] = RegionHead(*others["head.category_embedding.weight"].shape)
    return {name: module.state_dict() for name, module in parts.items()}


def _compare(name: str, found: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> Part:
    part = Part(name)
    for key, value in needed.items():
        if key not in found:
            part.missing.append(key)
        elif found[key].shape != value.shape:
            part.reshaped.append(f"{key}: {tuple(found[key].shape)}, needed {tuple(value.shape)}")
        else:
            part.matched += 1
    part.unexpected = sorted(found.keys() - needed.keys())
    return part


def _save(out: Path, tensors: dict[str, Tensor]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as draft:
        if out.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file({key: value.contiguous() for key, value in tensors.items()}, draft)
        else:
            torch.save({"state_dict": tensors}, draft)
