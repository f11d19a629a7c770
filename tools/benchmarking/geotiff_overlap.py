"""Segmentation by tiles against one forward over the whole scene: how many pixels differ, over the overlap."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from safetensors.torch import load_file

from benchmarking.models import require
from dynamicvis.geo import Extent, Scene, Settings, load_model, predict
from dynamicvis.model_card import read_card, save_model

TRAINED, ALL_KEPT = "as trained", "keep ratio 1 in all stages"
ALIGNED = "as trained, scene cut to a multiple of the backbone's strides"
STRIDE = 32


def overlap_curve(model: Path, scene: Path, tile: int, overlaps: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Compare the class maps of tiled runs with the argmax of one forward over the whole scene.

    Args:
        model: model file for segmentation.
        scene: in the resolution of the model.
        tile, overlaps: pixels.
        folder: for what is written on the way.

    Returns:
        For the model as it is, for the same weights with all tokens kept, and for the model on the scene cut to a
        multiple of the backbone's largest stride, where also the last windows begin at a multiple if tile and overlap
        are such, one entry an overlap: ``differing`` pixels as a share of all, ``things``, the share of pixels that are
        not background in the whole forward, and ``iou`` of these with those of the tiles.
    """
    points = []
    variants = [(TRAINED, model, scene), (ALIGNED, model, _cut(scene, folder / "cut.tif"))]
    all_kept = _all_kept(model, folder / "all-kept.safetensors")
    if all_kept is not None:
        variants.append((ALL_KEPT, all_kept, scene))
    for name, path, raster in variants:
        loaded = load_model(path)
        background = loaded.card.background
        with Scene(raster, loaded.card) as opened:
            values, _ = opened.read(Extent(0, 0, opened.width, opened.height))
        whole = loaded(values[None]).maps["scores"][0].argmax(axis=0)
        for overlap in overlaps:
            settings = Settings(tile=tile, overlap=overlap, overwrite=True, resume=False)
            predict(raster, folder / "tiles.tif", loaded, settings=settings)
            with rasterio.open(folder / "tiles.tif") as dataset:
                tiled = dataset.read(1)
            points.append({"model": name, "overlap": overlap, **_compared(whole, tiled, background)})
    return points


def _compared(whole: NDArray[Any], tiled: NDArray[Any], background: int | None) -> dict[str, float]:
    differing = whole != tiled
    things = (whole != background) | (tiled != background)
    return {
        "differing": float(differing.mean()),
        "iou": float((~differing & things).sum() / max(things.sum(), 1)),
        "things": float((whole != background).mean()),
    }


def _cut(scene: Path, path: Path) -> Path:
    with rasterio.open(scene) as source:
        height, width = (edge - edge % STRIDE for edge in source.shape)
        profile = {**source.profile, "height": height, "width": width}
        with rasterio.open(path, "w", **profile) as sink:
            sink.write(source.read(window=Window(0, 0, width, height)))
    return path


def _all_kept(model: Path, path: Path) -> Path | None:
    """The same weights with a backbone that keeps all tokens; None for one that does so already."""
    card = read_card(model)
    backbone = card.config["backbone"]
    ratios = backbone.get("keep_ratios", (0, 0, 0, 1))
    kept = [None if ratio is None else 1.0 for ratio in ratios]
    if kept == list(ratios):
        return None
    config = {**card.config, "backbone": {**backbone, "keep_ratios": kept}}
    save_model(path, load_file(model), replace(card, config=config))
    return path


def plot_overlap(path: Path, out: Path) -> None:
    """Draw the curve of a JSON file of `tools/benchmark.py geotiff overlap`.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: the file holds no curve.
    """
    content = json.loads(path.read_text())
    if "overlap" not in content:
        raise ValueError(f"{path} holds no curve over the overlap: run `geotiff overlap` first")
    part = content["overlap"]
    require("matplotlib").use("Agg")
    plt = require("matplotlib.pyplot")
    with plt.rc_context({"font.size": 11, "axes.grid": True, "grid.alpha": 0.3}):
        figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
        for name, color, marker in ((TRAINED, "#0072b2", "o"), (ALL_KEPT, "#d55e00", "s"), (ALIGNED, "#009e73", "^")):
            points = [point for point in part["points"] if point["model"] == name]
            if points:
                axes.plot(
                    [point["overlap"] for point in points],
                    [100 * point["differing"] for point in points],
                    color=color,
                    marker=marker,
                    label=name,
                )
        axes.set(
            title=f"{part['tile']} pixel tiles against one forward over {part['width']} x {part['height']} pixels",
            xlabel="overlap of neighbouring tiles, pixels",
            ylabel="pixels of another class, percent",
        )
        axes.set_ylim(0, 150 * max(point["differing"] for point in part["points"]))
        axes.set_xticks(sorted({point["overlap"] for point in part["points"]}))
        axes.legend(title=f"model {part['model']}")
        figure.savefig(out, dpi=110)
        plt.close(figure)
