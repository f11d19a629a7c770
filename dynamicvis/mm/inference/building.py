"""OpenMMLab models from model files: quickly, quietly, and refused where file and card do not fit."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynamicvis.model_card import OPENMMLAB_PACKAGES, ModelCard, ModelFileError, read_weights


def build_model(card: ModelCard, path: str | Path) -> Any:
    """The model of a card, not yet with its weights.

    Raises:
        ModelFileError: OpenMMLab as installed cannot build it.
    """
    return _build(OPENMMLAB_PACKAGES[card.task], card.config, path)


class Backbone(nn.Module):
    """A backbone by the name that it has in a whole model."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def build_backbone(card: ModelCard, path: str | Path) -> Backbone:
    """The backbone of a card's model, not yet with its weights; OpenMMLab's packages are left out where they can be.

    Raises:
        ModelFileError: OpenMMLab as installed cannot build it, or the model has no part called backbone.
    """
    config = card.config.get("backbone")
    if not isinstance(config, dict):
        raise ModelFileError(f"{path} holds a model without a backbone, which has no embedding; choose another model")
    scope, _, name = str(config.get("type", "")).rpartition(".")
    package = OPENMMLAB_PACKAGES.get(card.task, "dynamicvis")
    return Backbone(_build(scope or package, {**config, "type": name} if scope else config, path))


def load_weights(model: nn.Module, path: str | Path, prefix: str) -> None:
    """Load the tensors of a file whose names begin with ``prefix``.

    Raises:
        ModelFileError: they are not exactly those of the model.
    """
    weights, expected = read_weights(path, prefix), model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    reshaped = sorted(key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape)
    if missing or unexpected or reshaped:
        counts = f"{len(missing)} tensors missing, {len(unexpected)} unexpected, {len(reshaped)} of another shape"
        example = (missing or unexpected or reshaped)[0]
        raise ModelFileError(
            f"{path} holds weights of another architecture than its model card describes ({counts}, such as "
            f"{example}); export it again with the config that it was trained with"
        )
    model.load_state_dict(weights)


def _build(package: str, config: dict[str, Any], path: str | Path) -> Any:
    import dynamicvis.mm  # noqa: F401 - registers the backbone and provides mmcv.ops

    if package != "dynamicvis":
        import_module(f"{package}.models")
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    registry = import_module(f"{package}.registry").MODELS
    # mmdet's anchor points make torch warn about meshgrid, once per process: here, where it is not shown.
    torch.meshgrid(torch.zeros(1), torch.zeros(1))
    try:
        with DefaultScope.overwrite_default_scope(package):
            return registry.build(ConfigDict(config))
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(
            f"{path} describes an architecture that this version cannot build ({reason}); export the model again"
        ) from error


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
