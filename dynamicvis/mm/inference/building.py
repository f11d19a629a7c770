"""OpenMMLab models from model files: quickly, quietly, and refused where file and card do not fit."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynamicvis.mm.inference.guards import bounded_by, registered_only
from dynamicvis.model_card import OPENMMLAB_PACKAGES, ModelCard, ModelFileError, read_weights, weight_shapes
from dynamicvis.model_config import scopes_of, types_of
from dynamicvis.text import first_sentence, printable

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Shapes and types of weights by name, as `dynamicvis.model_card.weight_shapes` gives them."""


def build_model(card: ModelCard, path: str | Path, weights: Shapes | None = None) -> Any:
    """The model of a card, not yet with its weights.

    Args:
        card: the card.
        path: model file, or what an error names.
        weights: what the model is for and what bounds its size; None for those in the file.

    Raises:
        ModelFileError: OpenMMLab as installed cannot build it.
    """
    return _build(OPENMMLAB_PACKAGES[card.task], card.config, path, weights)


class Backbone(nn.Module):
    """A backbone by the name that it has in a whole model."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def build_backbone(card: ModelCard, path: str | Path, weights: Shapes | None = None) -> Backbone:
    """The backbone of a card's model, not yet with its weights; OpenMMLab's packages are left out where they can be.

    Arguments are as for `build_model`.

    Raises:
        ModelFileError: OpenMMLab as installed cannot build it, or the model has no part called backbone.
    """
    config = card.config.get("backbone")
    if not isinstance(config, dict):
        raise ModelFileError(f"{path} holds a model without a backbone, which has no embedding; choose another model")
    scope, _, name = str(config.get("type") or "").rpartition(".")
    package = OPENMMLAB_PACKAGES.get(card.task, "dynamicvis")
    return Backbone(_build(scope or package, {**config, "type": name} if scope else config, path, weights))


def check_model(
    tensors: Mapping[str, torch.Tensor], card: ModelCard, config: str | Path, checkpoint: str | Path
) -> None:
    """Build the model of a card that is not yet in a file, and compare it with the card and with its weights.

    Args:
        tensors: weights of the model, or of its backbone alone where the card's task is ``"embedding"``.
        card: the card.
        config, checkpoint: files that card and weights come from, for errors.

    Raises:
        ModelFileError: it cannot be built, or they do not fit.
    """
    shapes = {name: (tuple(value.shape), _SHORT.get(value.dtype, str(value.dtype))) for name, value in tensors.items()}
    with quiet():
        build = build_backbone if card.task == "embedding" else build_model
        model = build(card, config, shapes)
    check_fit(model, card, config)
    _compare(shapes, model.state_dict(), checkpoint)


def load_weights(model: nn.Module, path: str | Path, prefix: str) -> None:
    """Load the tensors of a file whose names begin with ``prefix``.

    Names, shapes and types are compared before a value is read.

    Raises:
        ModelFileError: they are not exactly those of the model, or hold NaN or infinity.
    """
    _compare(weight_shapes(path, prefix), model.state_dict(), path)
    model.load_state_dict(read_weights(path, prefix))


def _compare(found: Shapes, expected: Mapping[str, torch.Tensor], path: str | Path) -> None:
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    both = sorted(expected.keys() & found.keys())
    reshaped = [key for key in both if expected[key].shape != found[key][0]]
    if missing or unexpected or reshaped:
        counts = f"{len(missing)} tensors missing, {len(unexpected)} unexpected, {len(reshaped)} of another shape"
        example = (missing or unexpected or reshaped)[0]
        raise ModelFileError(
            f"{path} holds weights of another architecture than its model card describes ({counts}, such as "
            f"{printable(example)}); export it again with the config that it was trained with"
        )
    for key in both:
        kind = found[key][1]
        if _KINDS.get(kind.partition("_")[0].rstrip("0123456789")) != _kind(expected[key]):
            raise ModelFileError(
                f"{path} holds {printable(key)} as {printable(kind)}, and the model needs {expected[key].dtype}; "
                "export it again"
            )


# safetensors' names of types that weights have.
_SHORT = {
    torch.float16: "F16", torch.float32: "F32", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16",
    torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
# Kinds of numbers by safetensors' names of types, less their sizes.
_KINDS = {"F": "float", "BF": "float", "I": "int", "U": "int", "BOOL": "bool"}


def _kind(value: torch.Tensor) -> str:
    if value.dtype == torch.bool:
        return "bool"
    return "float" if value.is_floating_point() else "complex" if value.is_complex() else "int"


def check_fit(model: nn.Module, card: ModelCard, path: str | Path) -> None:
    """Compare a model with its card, or the backbone of one.

    Raises:
        ModelFileError: the model takes another number of bands, or gives another number of classes.
    """
    from dynamicvis.backbone import DynamicVis

    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, DynamicVis) and backbone.in_channels != len(card.bands) * _dates_of(model, card):
        found = backbone.in_channels
        raise ModelFileError(
            f"{path} describes a model of {found} bands and names {len(card.bands)} ({', '.join(card.bands[:20])}); "
            "export it again with the bands that it was trained with"
        )
    count = _classes_of(model)
    if count is not None and count != len(card.classes):
        raise ModelFileError(
            f"{path} describes a model of {count} classes and names {len(card.classes)}; export it again with the "
            "classes that it was trained with"
        )


def _dates_of(model: nn.Module, card: ModelCard) -> int:
    """Number of dates whose bands a backbone takes together: two where a plain segmentor finds changes."""
    alone = isinstance(model, Backbone) or type(model).__name__ == "SiameseSegmentor"
    return 2 if card.task == "change" and not alone else 1


def _classes_of(model: nn.Module) -> int | None:
    """Number of classes that a model tells apart, where its head says it."""
    roi_head = getattr(model, "roi_head", None)
    heads = [getattr(roi_head, "bbox_head", None), *(getattr(model, name, None) for name in _HEADS)]
    head = next((head for head in heads if head is not None), None)
    if isinstance(head, nn.ModuleList):  # of a cascade
        head = head[-1]
    count = getattr(head, "num_classes", None)
    return count if isinstance(count, int) else None


_HEADS = ("bbox_head", "mask_head", "panoptic_head", "decode_head", "head")


def _build(package: str, config: dict[str, Any], path: str | Path, weights: Shapes | None) -> Any:
    import dynamicvis.mm  # noqa: F401 - registers the backbone and provides mmcv.ops

    for scope in sorted({package, *scopes_of(config)} - {"dynamicvis", "mmengine"}):
        import_module(f"{scope}.models")
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    registry = import_module(f"{package}.registry").MODELS
    _check_registered(config, path)
    # mmdet's anchor points make torch warn about meshgrid, once per process: here, where it is not shown.
    torch.meshgrid(torch.zeros(1), torch.zeros(1))
    shapes = [shape for shape, _ in (weight_shapes(path) if weights is None else weights).values()]
    try:
        with DefaultScope.overwrite_default_scope(package), registered_only(), bounded_by(shapes):
            return registry.build(ConfigDict(config))
    except Exception as error:  # a class of OpenMMLab raises whatever its settings lead it to
        reason = first_sentence(error)
        raise ModelFileError(
            f"{path} describes an architecture that this version cannot build ({reason}); export the model again"
        ) from error


def _check_registered(config: dict[str, Any], path: str | Path) -> None:
    """Refuse a type that another package registered in place of the known one.

    Raises:
        ModelFileError: one is no class of a known package.
    """
    names = {kind.rpartition(".")[2] for kind in types_of(config)}
    for registry in _registries():
        for name in names & registry.module_dict.keys():
            found = registry.module_dict[name]
            package = str(getattr(found, "__module__", "")).partition(".")[0]
            if not isinstance(found, type) or package not in _PACKAGES:
                raise ModelFileError(
                    f"{path} names the type {name}, which package '{package}' registered here; a model file may only "
                    f"build classes of {', '.join(sorted(_PACKAGES))}"
                )


_PACKAGES = frozenset(("dynamicvis", "mmcv", "mmdet", "mmengine", "mmpretrain", "mmseg", "torch"))


def _registries() -> Iterator[Any]:
    """All registries that parts of a model may come from."""
    import mmengine.registry

    waiting = [mmengine.registry.MODELS, mmengine.registry.TASK_UTILS]
    while waiting:
        registry = waiting.pop()
        yield registry
        waiting += registry.children.values()


def silence() -> None:
    """Drop what mmseg warns of at every call, which tells a user of a finished model nothing."""
    warnings.filterwarnings("ignore", message="When align_corners=True, the output would more aligned")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines or prints of the OpenMMLab packages while they are imported and built."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
