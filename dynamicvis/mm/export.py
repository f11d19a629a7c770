"""From a training checkpoint to a single-file model."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import Tensor

from dynamicvis.checkpoint import CheckpointError, read_tensors
from dynamicvis.files import read_text
from dynamicvis.mm.classes import class_colors, class_names
from dynamicvis.mm.inference.building import check_model
from dynamicvis.model_card import ModelCard, ModelFileError, is_number, save_model

_logger = logging.getLogger(__name__)

_RGB = ("red", "green", "blue")
_BACKGROUNDS = ("background", "unchanged")
_EMBEDDERS = ("Embedder", "RegionClassifier")


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

    A tensor whose values float16 cannot hold, too large or too small, stays in float32; the log counts them. Nothing
    in the checkpoint is executed. The model of the card is built and compared with the weights before anything is
    written.

    The config must have a ``model_card`` dictionary with the fields of :class:`ModelCard` that cannot be read from it:
    description, value_range, gsd, training_data, license, tile and overlap where the model is not tested by sliding a
    window, and score_threshold where it finds objects. It may have any other field, which then replaces what the config
    says. Where the test pipeline brings images of another size to a fixed one, it has ``image_size``, the longer edge
    of the data set's images in pixels. Configs of retrieval, frozen features and pretraining give a model for
    ``"embedding"``, which is the backbone alone.

    Args:
        config_path: config that the checkpoint was trained with.
        checkpoint: checkpoint of a run, as `dynamicvis.checkpoint.read_tensors` reads it; where weights were averaged,
            those are written.
        out: file to write, replaced if it exists.
        name: name of the model.
        metrics: JSON file with figures by name, as written by ``tools/test.py``.
        score_threshold: replaces the one in the config.

    Returns:
        The card.

    Raises:
        ModelFileError: the config lacks card values or builds what a model file may not, see
            `dynamicvis.model_config`; the checkpoint cannot be read, lacks the backbone or holds NaN; or it is of
            another model than the config's.
    """
    config = _config(config_path)
    given: dict[str, Any] = config.model_card.to_dict()
    for field in ("description", "training_data", "license"):
        if isinstance(given.get(field), str):
            given[field] = " ".join(given[field].split())  # text of several lines in the config
    if score_threshold is not None:
        given["score_threshold"] = score_threshold
    task = given.pop("task", None) or _task(config)
    try:
        derived = {
            "name": name,
            "task": task,
            "config": _architecture(config, task),
            **_normalisation(config, task, given),
            **_classes(config, task),
            **_tiling(config, given),
            "score_threshold": 0.0,
            "metrics": {} if metrics is None else _figures(Path(metrics)),
        }
        if task in ("detection", "instance_segmentation"):
            del derived["score_threshold"]
        card = ModelCard(**{**derived, **given})
    except TypeError as error:
        raise ModelFileError(f"{config_path}: model_card does not fit a model card ({error})") from error
    except ModelFileError as error:
        raise ModelFileError(f"{config_path}: {error}") from error
    weights = _half(_used(_load_state_dict(checkpoint), task, checkpoint))
    check_model(weights, card, config_path, checkpoint)
    save_model(out, weights, card)
    return card


def _config(path: str | Path) -> Config:
    try:
        config = Config.fromfile(path)
    except SyntaxError as error:
        raise ModelFileError(f"{path} is no config ({error})") from error
    if not isinstance(config.get("model_card"), Mapping):
        raise ModelFileError(f"{path} has no model_card, a dictionary of what its other settings do not say")
    for name, kind in (("model", "a dictionary of the architecture"), ("test_dataloader", "the data of the tests")):
        if not isinstance(config.get(name), Mapping):
            raise ModelFileError(f"{path} has no {name}, {kind}; give the config that the checkpoint was trained with")
    return config


def _figures(path: Path) -> dict[str, float]:
    """Metrics, less those at thresholds chosen on the split itself, which say nothing about other data.

    What is no finite number, such as the score of a class that the split lacks, is left out.
    """
    try:
        metrics = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no JSON; give the metrics.json that a test wrote") from error
    if not isinstance(metrics, dict):
        raise ModelFileError(f"{path} holds no figures by name; give the metrics.json that a test wrote")
    return {
        name: value
        for name, value in metrics.items()
        if "best_" not in name and "balanced_" not in name and is_number(value)
    }


def _task(config: Config) -> str:
    kind = str(config.model.type).rpartition(".")[2]
    if kind in _EMBEDDERS:
        return "embedding"
    if kind == "SiameseSegmentor":
        return "change"
    scope = config.get("default_scope")
    if scope == "mmdet":
        return "instance_segmentation" if _has_key(config.model, "mask_head") else "detection"
    tasks = {"mmseg": "segmentation", "mmpretrain": "classification"}
    if scope not in tasks:
        raise ModelFileError(f"default_scope is {scope!r}, which tells no task; give model_card.task")
    return tasks[scope]


def _has_key(values: Any, key: str) -> bool:
    if not isinstance(values, Mapping):
        return False
    return values.get(key) is not None or any(_has_key(value, key) for value in values.values())


def _architecture(config: Config, task: str) -> dict[str, Any]:
    """Config of the model, less what only training needs: preprocessor, auxiliary heads, files to begin from."""
    model = _without_files(config.model.to_dict())
    if task == "embedding":
        backbone = model["backbone"]
        if "." not in backbone["type"]:
            backbone["type"] = f"{config.get('default_scope')}.{backbone['type']}"
        model = {"backbone": backbone}
    model.pop("data_preprocessor", None)
    model.pop("auxiliary_head", None)
    return json.loads(json.dumps(model))


def _without_files(values: Any) -> Any:
    if isinstance(values, list | tuple):
        return [_without_files(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {
        key: _without_files(value)
        for key, value in values.items()
        if not (key == "init_cfg" and _is_pretrained(value)) and not (key == "pretrained" and isinstance(value, str))
    }


def _is_pretrained(value: Any) -> bool:
    """Whether an ``init_cfg``, or one of several, reads a file."""
    parts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(part, dict) and (part.get("type") == "Pretrained" or "checkpoint" in part) for part in parts)


def _used(state: Mapping[str, Tensor], task: str, checkpoint: str | Path) -> dict[str, Tensor]:
    if task != "embedding":
        return {key: value for key, value in state.items() if not key.startswith("auxiliary_head.")}
    backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    if not backbone:
        raise ModelFileError(f"{checkpoint} has no weights of a backbone; give the checkpoint of a run")
    return backbone


def _preprocessor(config: Config) -> Mapping[str, Any]:
    """Settings of the data preprocessor; mmpretrain's configs may have it beside the model."""
    settings = config.model.get("data_preprocessor") or config.get("data_preprocessor") or {}
    if settings.get("mean") is None or settings.get("std") is None:
        raise ModelFileError("the data preprocessor has no mean and std, so the model's input is unknown")
    return settings


def _normalisation(config: Config, task: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Bands, mean and std; in the units of the raster where the pipeline changes them."""
    settings = _preprocessor(config)
    mean, std = tuple(map(float, settings["mean"])), tuple(map(float, settings["std"]))
    if task == "change":
        half = len(mean) // 2
        if mean[:half] != mean[half:] or std[:half] != std[half:]:
            raise ModelFileError("mean and std differ between the dates; a model file has the same for both")
        mean, std = mean[:half], std[:half]
    values: dict[str, Any] = {}
    for step in _dataset(config).pipeline:
        if step.type == "dynamicvis.ReflectanceToByte":
            white = float(step.get("white", 2000.0))
            mean, std = (tuple(value * white / 255 for value in numbers) for numbers in (mean, std))
            values = {"value_range": (0.0, white), "clip": True}
    bands = given.get("bands") or _bands(config)
    if len(bands) != len(mean):
        raise ModelFileError(
            f"mean and std are for {len(mean)} bands and {len(bands)} are named ({', '.join(bands)}); name them in "
            "model_card.bands, in the order that the model sees them"
        )
    return {"bands": bands, "mean": mean, "std": std, **values}


def _bands(config: Config) -> tuple[str, ...]:
    """Bands as the data set names those of its files, else red, green, blue, in the order that the model sees them.

    ``LoadRaster`` keeps the order of the file or takes the bands it is told to; mmcv's loader reads BGR. The
    preprocessor may swap.
    """
    dataset = _dataset(config)
    loader = dataset.pipeline[0]
    names = tuple(dataset.get("metainfo", {}).get("bands") or dataset.get("bands") or _RGB)
    if loader.type == "LoadImageFromFile":
        names = names[::-1]
    elif loader.get("bands") and loader.type in ("dynamicvis.LoadRaster", "dynamicvis.LoadRasterPair"):
        names = tuple(names[number - 1] for number in loader.bands)
    settings = _preprocessor(config)
    swapped = any(settings.get(key) for key in ("bgr_to_rgb", "rgb_to_bgr", "to_rgb"))
    return names[::-1] if swapped else names


def _classes(config: Config, task: str) -> dict[str, Any]:
    if task == "embedding":
        return {"classes": (), "colors": ()}
    metainfo = _metainfo(config)
    classes = class_names(metainfo)
    if not classes:
        raise ModelFileError("the data set names no classes; give model_card.classes and model_card.colors")
    pixelwise = task in ("segmentation", "change")
    background = next((index for index, name in enumerate(classes) if pixelwise and name in _BACKGROUNDS), None)
    colors = tuple("#{:02x}{:02x}{:02x}".format(*color) for color in class_colors(metainfo)[: len(classes)])
    return {"classes": classes, "colors": colors, "background": background}


def _metainfo(config: Config) -> dict[str, Any]:
    """What the class of the test data set says, and over it the config."""
    from mmengine.registry import DATASETS

    dataset = _dataset(config)
    scope = config.get("default_scope") or "mmengine"
    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = registry.get(dataset.type)
    return {**(getattr(kind, "METAINFO", None) or {}), **dataset.get("metainfo", {})}


def _dataset(config: Config) -> Any:
    """The data set of the tests; of several joined or repeated, the first."""
    dataset = config.test_dataloader.dataset
    while "pipeline" not in dataset and ("datasets" in dataset or "dataset" in dataset):
        dataset = dataset.datasets[0] if "datasets" in dataset else dataset.dataset
    return dataset


def _tiling(config: Config, given: dict[str, Any]) -> dict[str, Any]:
    """How much the test pipeline enlarges images; and the window that the model slides over them, in their pixels."""
    values = _enlargement(config, given.pop("image_size", None)) if "scale" not in given else {}
    scale = given.get("scale", values.get("scale"))
    settings = config.model.get("test_cfg") or {}
    if settings.get("mode") == "slide":
        crop, stride = (max(1, round(min(settings[key]) / scale)) for key in ("crop_size", "stride"))
        values |= {"tile": crop, "overlap": max(0, crop - stride)}
    return values


def _enlargement(config: Config, image_size: int | None) -> dict[str, Any]:
    for step in _dataset(config).pipeline:
        if not step.type.rpartition(".")[2].startswith("Resize"):
            continue
        values = {"interpolation": step.get("interpolation", "bilinear")}
        if step.get("scale_factor"):
            factor = step.scale_factor
            return {**values, "scale": float(factor if isinstance(factor, int | float) else factor[0])}
        if image_size is None:
            raise ModelFileError(
                "images are tested at a fixed size; give model_card.image_size, the longer edge of the data set's "
                "images in pixels, or model_card.scale"
            )
        return {**values, "scale": (step.scale if isinstance(step.scale, int) else max(step.scale)) / image_size}
    return {"scale": 1.0}


def _load_state_dict(checkpoint: str | Path) -> dict[str, Tensor]:
    try:
        return read_tensors(checkpoint)
    except CheckpointError as error:
        raise ModelFileError(str(error)) from error


def _half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float16, those that it cannot hold in float32, counted in the log."""
    halves = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    kept = [key for key, value in tensors.items() if value.is_floating_point() and not _held(key, value, halves[key])]
    if kept:
        _logger.warning(
            "kept in float32, for float16 cannot hold their values: %d of %d tensors, such as %s",
            len(kept),
            len(tensors),
            kept[0],
        )
    return halves | {key: tensors[key].float() for key in kept}


def _held(name: str, value: Tensor, half: Tensor) -> bool:
    """Whether float16 holds a tensor as closely as it holds numbers of its own range.

    Of a variance, each value must be: a norm divides by its root. Elsewhere numbers far below the largest one add
    nothing, unless all are so small.
    """
    if not value.numel():
        return True
    magnitude = value.double().abs()
    error = (value.double() - half.double()).abs()
    scale = magnitude if name.endswith("running_var") else magnitude.max()
    return bool((error <= scale * 2.0**-10).all())
