"""From a training checkpoint to a single-file model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from mmengine.config import Config
from torch import Tensor

from dynamicvis.model_card import ModelCard, ModelFileError, save_model

_RGB = ("red", "green", "blue")


def export_model(
    config_path: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    name: str,
    metrics: str | Path | None = None,
    score_threshold: float | None = None,
) -> ModelCard:
    """Write a model file with float16 weights and a card made from the config.

    The config must have a ``model_card`` dictionary with the fields of :class:`ModelCard` that cannot be read from it:
    description, value_range, gsd, tile, overlap, score_threshold, training_data, license.

    Args:
        config_path: config that the checkpoint was trained with.
        checkpoint: checkpoint of a run; where weights were averaged, those are what its state dict holds.
        out: file to write, replaced if it exists.
        name: name of the model.
        metrics: JSON file with figures by name, as written by ``tools/test.py``.
        score_threshold: replaces the one in the config.

    Returns:
        The card.

    Raises:
        ModelFileError: the config lacks card values, or the checkpoint cannot be read.
    """
    config = Config.fromfile(config_path)
    given = dict(config.get("model_card", {}))
    if score_threshold is not None:
        given["score_threshold"] = score_threshold
    model = config.model.to_dict()
    preprocessor = model.pop("data_preprocessor")
    model["backbone"].pop("init_cfg", None)
    metainfo = config.test_dataloader.dataset.metainfo
    try:
        card = ModelCard(
            name=name,
            task="detection",
            config=json.loads(json.dumps(model)),
            bands=_bands(config),
            mean=tuple(preprocessor["mean"]),
            std=tuple(preprocessor["std"]),
            classes=tuple(metainfo["classes"]),
            colors=tuple("#{:02x}{:02x}{:02x}".format(*color) for color in metainfo["palette"]),
            metrics={} if metrics is None else _figures(Path(metrics)),
            **given,
        )
    except TypeError as error:
        raise ModelFileError(f"{config_path}: model_card does not fit a model card ({error})") from error
    save_model(out, _half(_load_state_dict(checkpoint)), card)
    return card


def _figures(path: Path) -> dict[str, float]:
    """Metrics, less those at thresholds chosen on the split itself, which say nothing about other data."""
    return {
        name: value
        for name, value in json.loads(path.read_text()).items()
        if "best_" not in name and "balanced_" not in name
    }


def _bands(config: Config) -> tuple[str, ...]:
    """Bands by the names in metainfo, else red, green, blue in the order that the model sees them.

    ``LoadRaster`` keeps the order of the file; mmcv's loader reads BGR, which the preprocessor may swap.
    """
    dataset = config.test_dataloader.dataset
    if "bands" in dataset.metainfo:
        return tuple(dataset.metainfo.bands)
    in_file_order = dataset.pipeline[0].type == "dynamicvis.LoadRaster"
    return _RGB if in_file_order or config.model.data_preprocessor.get("bgr_to_rgb") else _RGB[::-1]


def _load_state_dict(checkpoint: str | Path) -> dict[str, Tensor]:
    try:
        # A run's own checkpoint: besides tensors it holds the runner's history, which weights_only refuses.
        content = torch.load(checkpoint, map_location="cpu", weights_only=False)
        return content["state_dict"]
    except FileNotFoundError as error:
        raise ModelFileError(f"checkpoint {checkpoint} does not exist") from error
    except (KeyError, RuntimeError, EOFError, OSError, UnpicklingError) as error:
        raise ModelFileError(f"{checkpoint} is truncated or no checkpoint of a training run ({error})") from error


def _half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
