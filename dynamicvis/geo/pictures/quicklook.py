"""A picture of the scene with what was found on it, and a legend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.pictures.drawing import draw_objects, lay_over
from dynamicvis.geo.pictures.layers import ClassLayer, Ground, Layer, ObjectLayer, ValueLayer
from dynamicvis.geo.pictures.legend import MOST_ENTRIES, Entry, Legend
from dynamicvis.geo.pictures.rendering import (
    LONG_EDGE,
    class_indices,
    class_picture,
    class_shares,
    decimated_size,
    ground_picture,
    share_text,
    value_picture,
)
from dynamicvis.model_card import ModelCard

_SMALL_EDGE = 1024  # a smaller scene is enlarged by a whole number up to this edge, so that lines and text stay thin
_TALL = 4 / 3  # height by width from which the legend stands beside the scene
_CLASS_ALPHA, _VALUE_ALPHA = 140, 190
_WHITE = (255, 255, 255, 255)


def write_quicklook(path: str | Path, scene: Ground, card: ModelCard, layer: Layer) -> None:
    """Write an RGBA PNG of the scene, at most 2048 pixels along its long edge, with a layer on it and a legend.

    The scene is stretched between the 2nd and 98th percentile of each band; its pixels without data are transparent.
    Objects have outlines in their class's colour, with a thin dark halo, so that they show on bright and dark ground.
    The legend stands below the scene, or beside a tall one. For a change, give the later scene.

    Args:
        path: of the PNG; replaced if it exists.
        scene: an open scene.
        card: its bands, classes and colours.
        layer: what to show.

    Raises:
        GeoError: the scene or the layer's raster is damaged, or the file cannot be written.
    """
    beside = scene.height > _TALL * scene.width
    rows, columns = _room(scene, card, layer, beside)
    zoom = max(1, _SMALL_EDGE // max(scene.height, scene.width))
    picture = ground_picture(scene, card, rows, columns).repeat(zoom, axis=0).repeat(zoom, axis=1)
    metres = None if scene.gsd is None else scene.gsd * scene.width / picture.shape[1]
    legend = _draw_layer(picture, scene, card, layer, (rows, columns), metres)
    sheet = _with_legend(picture, legend, beside)
    try:
        # A photograph hardly gets smaller by more effort, which costs seconds.
        Image.fromarray(sheet).save(path, format="PNG", compress_level=2)
    except OSError as error:
        raise GeoError(f"{Path(path).name} cannot be written ({error}); check the folder and its free space") from error


def _room(scene: Ground, card: ModelCard, layer: Layer, beside: bool) -> tuple[int, int]:
    """Height and width of the scene in the picture, such that the largest legend it may have fits too."""
    entries: list[Entry] = []
    if not isinstance(layer, ValueLayer):
        entries = [Entry(name, "1,000,000", "#000000") for name in card.classes][: MOST_ENTRIES + 1]
    summary = _summary(card, "1,000,000 objects")
    most = Legend(Path(scene.path).name, summary, entries, 1.0 if isinstance(layer, ValueLayer) else None, scene.gsd)
    height, width = decimated_size(scene.height, scene.width)
    if beside:
        needed = most.natural_width(height)
        return decimated_size(scene.height, scene.width, _fitting(scene.height, scene.width, LONG_EDGE - needed))
    needed = most.draw(width, max(height, width)).shape[0] if max(height, width) > _SMALL_EDGE else 0
    return decimated_size(scene.height, scene.width, _fitting(scene.width, scene.height, LONG_EDGE - needed))


def _fitting(along: int, across: int, room: int) -> int:
    """The long edge at which a scene's side ``across``, beside which the legend stands, has no more than ``room``."""
    return min(LONG_EDGE, max(1, int(room * max(along, across) / across)))


def _draw_layer(
    picture: NDArray[np.uint8],
    scene: Ground,
    card: ModelCard,
    layer: Layer,
    shape: tuple[int, int],
    metres: float | None,
) -> Legend:
    """Draw a layer in place; rasters are read in ``shape`` (height, width), of which the picture is a multiple."""
    title, colors = Path(scene.path).name, card.colors
    zoom = picture.shape[0] // shape[0]
    if isinstance(layer, ObjectLayer):
        scale = picture.shape[1] / scene.width, picture.shape[0] / scene.height
        counts = draw_objects(picture, layer, scale, colors)
        total = int(counts.sum())
        summary = _summary(card, f"{total:,} object{'' if total == 1 else 's'}")
        entries = [
            Entry(name, f"{count:,}", color, "filled" if layer.filled else "outline")
            for name, count, color in zip(card.classes, counts.tolist(), colors, strict=True)
        ]
        return Legend(title, summary, _present(entries, counts), metres=metres)
    if isinstance(layer, ClassLayer):
        indices = class_indices(layer, scene, *shape, len(card.classes))
        _overlay(picture, class_picture(indices, colors, layer.hidden), _CLASS_ALPHA, zoom)
        shares = class_shares(layer, indices, len(card.classes))
        shown = [index for index in range(len(card.classes)) if index not in layer.hidden]
        entries = [Entry(card.classes[index], share_text(shares[index]), colors[index]) for index in shown]
        return Legend(title, _summary(card, "share of the area"), _present(entries, shares[shown]), metres=metres)
    # In grey, the scene's own colours do not mix with those of the values.
    picture[..., :3] = picture[..., :3].mean(axis=2, keepdims=True)
    _overlay(picture, value_picture(layer, scene, *shape), _VALUE_ALPHA, zoom)
    if layer.style == "ramp":
        return Legend(title, _summary(card, layer.name), ramp=layer.highest, metres=metres)
    meaning = f"{layer.name}, its first three principal components as red, green and blue"
    return Legend(title, _summary(card, meaning), metres=metres)


def _present(entries: list[Entry], amounts: NDArray[np.int64] | NDArray[np.float64]) -> list[Entry]:
    """The classes that occur, or all where none does; the most frequent first where they are too many to be shown."""
    found = np.flatnonzero(amounts) if amounts.any() else np.arange(len(entries))
    if len(found) > MOST_ENTRIES:
        found = found[np.argsort(-amounts[found], kind="stable")]
    return [entries[index] for index in found]


def _summary(card: ModelCard, text: str) -> str:
    return f"{card.name} · {text}"


def _overlay(picture: NDArray[np.uint8], upper: NDArray[np.uint8], alpha: int, zoom: int) -> None:
    upper = upper.repeat(zoom, axis=0).repeat(zoom, axis=1)
    upper[..., 3] = np.minimum(upper[..., 3], alpha)
    lay_over(picture, upper)


def _with_legend(picture: NDArray[np.uint8], legend: Legend, beside: bool) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    long_edge = max(height, width)
    panel = legend.draw(legend.natural_width(long_edge) if beside else width, long_edge)
    if not beside:
        return np.concatenate([picture, panel])
    sheet = np.full((max(height, panel.shape[0]), width + panel.shape[1], 4), _WHITE, np.uint8)
    sheet[:height, :width] = picture
    sheet[height:, :width] = 0
    sheet[: panel.shape[0], width:] = panel
    return sheet
