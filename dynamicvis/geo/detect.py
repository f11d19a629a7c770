"""Objects of a whole scene, found tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.merge import Candidates, claim, without_duplicates
from dynamicvis.geo.source import Scene
from dynamicvis.geo.tiles import Tile, tile_grid
from dynamicvis.model_card import ModelCard

# (B, bands, height, width) float32 in raster units -> B times boxes (n, 4), scores (n,), labels (n,)
Detector = Callable[[NDArray[np.float32]], Sequence[tuple[Any, Any, Any]]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Detections:
    """Objects of a scene, best score first.

    Attributes:
        boxes: (N, 4) left, top, right, bottom in pixels of the raster, float64.
        scores: (N,) 0 to 1, float64.
        labels: (N,) indices into the card's classes, int64.
        tiles: number of tiles with data that the detector saw.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    tiles: int

    def __len__(self) -> int:
        return len(self.boxes)


def tiling(card: ModelCard, tile: int | None, overlap: int | None) -> tuple[int, int]:
    """Tile and overlap in pixels: as given, else the card's. For a given tile alone, overlap is at most half of it.

    Raises:
        GeoError: tile below 1, or overlap below 0 or not below tile.
    """
    if tile is not None and tile < 1:
        raise GeoError(f"tile must be at least 1 pixel, not {tile}")
    size = card.tile if tile is None else tile
    if overlap is None:
        return size, card.overlap if tile is None else min(card.overlap, size // 2)
    if not 0 <= overlap < size:
        raise GeoError(f"overlap must be at least 0 and less than tile ({size} pixels), not {overlap}")
    return size, overlap


def detect_objects(
    detector: Detector,
    scene: Scene,
    card: ModelCard,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Detections:
    """Run a detector over all tiles of a scene and keep each object once.

    Each tile answers for the objects with their centre in its core; duplicates between tiles are removed. Boxes are
    clipped to the raster; objects whose centre, and the greater part of whose box, lies on NoData are dropped, and so
    are scores below the card's threshold. The result does not depend on the batch size as long as the detector's
    does not. Only one batch of tiles is in memory at a time.

    Args:
        detector: maps (B, bands, tile, tile) float32 in raster units, NoData filled with the card's means, to B
            tuples of boxes (n, 4) left, top, right, bottom in pixels of the tile, scores (n,) 0 to 1 and labels
            (n,) indices into the card's classes. Never gets a tile without data.
        scene: an open scene.
        card: card of the model.
        tile, overlap: pixels; the card's if not given.
        batch_size: tiles in one call of the detector, at least 1.
        progress: called with the number of tiles done and of all tiles, first with 0.

    Raises:
        GeoError: tile, overlap or batch size out of range; a damaged file.
        ValueError: the detector's answer does not fit its input or the card.
    """
    tile, overlap = tiling(card, tile, overlap)
    if batch_size < 1:
        raise GeoError(f"batch size must be at least 1, not {batch_size}")
    tiles = tile_grid(scene.height, scene.width, tile, overlap)
    report = progress or (lambda done, total: None)
    report(0, len(tiles))
    found: list[tuple[Tile, Candidates]] = []
    batch: list[tuple[Tile, NDArray[np.float32], NDArray[np.bool_]]] = []
    seen = 0
    for done, cell in enumerate(tiles, start=1):
        values, valid = scene.read(cell.window)
        if valid.any():
            batch.append((cell, values, valid))
        if len(batch) == batch_size or (batch and done == len(tiles)):
            found += _detect_batch(detector, batch, scene, card)
            seen += len(batch)
            batch = []
        report(done - len(batch), len(tiles))
    kept = without_duplicates(found, stride=tile - overlap)
    return Detections(kept.boxes, kept.scores, kept.labels, seen)


def _detect_batch(
    detector: Detector,
    batch: list[tuple[Tile, NDArray[np.float32], NDArray[np.bool_]]],
    scene: Scene,
    card: ModelCard,
) -> list[tuple[Tile, Candidates]]:
    answers = detector(np.stack([values for _, values, _ in batch]))
    if len(answers) != len(batch):
        raise ValueError(f"the detector gave {len(answers)} answers for {len(batch)} tiles")
    found = []
    for (tile, _, valid), answer in zip(batch, answers, strict=True):
        boxes = np.asarray(answer[0], np.float64).reshape(-1, 4)
        scores = np.asarray(answer[1], np.float64).reshape(len(boxes))
        labels = np.asarray(answer[2], np.int64).reshape(len(boxes))
        if ((labels < 0) | (labels >= len(card.classes))).any():
            raise ValueError(f"the detector gave labels outside the {len(card.classes)} classes of '{card.name}'")
        confident = scores >= card.score_threshold
        corner = np.array([*tile.window[:2], *tile.window[:2]], np.float64)
        candidates = claim(
            tile, boxes[confident] + corner, scores[confident], labels[confident], scene.height, scene.width
        )
        found.append((tile, candidates.take(_on_data(candidates.boxes - corner, valid))))
    return found


def _on_data(boxes: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each box (N, 4), in pixels of the window, has data at its centre, or at least on half of its pixels.

    The second clause keeps an object with a stray NoData pixel, such as a saturated one, in its very middle.
    """
    columns, rows = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.int64).T
    kept = valid[rows, columns]
    for index in np.flatnonzero(~kept):
        left, top = np.floor(boxes[index, :2]).astype(np.int64)
        right, bottom = np.ceil(boxes[index, 2:]).astype(np.int64)
        kept[index] = valid[top:bottom, left:right].mean() >= 0.5
    return kept
