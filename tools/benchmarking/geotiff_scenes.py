"""Scenes for the benchmark of the GeoTIFF engine: made by code, or a real one brought to the resolution of a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from dynamicvis.geo import Scene
from dynamicvis.model_card import ModelCard

BLOCK = 512
_TEXTURE = 4096
_SLOPE = 1.2  # the amplitude of aerial imagery falls about so with the spatial frequency
_DENSE = 4096, 8192  # height and width of the part of a sparse scene that has data everywhere, pixels
_SPARSE = 8  # of the blocks of a sparse scene, one in this number squared holds data


def textured_scene(path: Path, size: int) -> Path:
    """A scene (size, size) of three bands of bytes, tiled, deflated: fractal noise like aerial imagery, and a sensor's.

    A file that is there already is left as it is.
    """
    if path.exists():
        return path
    texture = _texture(min(size, _TEXTURE))
    edge = texture.shape[1]
    with _create(path, size, size, 0.1) as sink:
        for top in range(0, size, edge):
            for left in range(0, size, edge):
                part = np.roll(texture, (top // 7, left // 5), axis=(1, 2))[:, : size - top, : size - left]
                sink.write(part, window=Window(left, top, part.shape[2], part.shape[1]))
    return path


def sparse_scene(path: Path, size: int, gsd: float) -> Path:
    """A scene (size, size) with data in one block of 64, on a regular lattice, and in 4096 rows of 8192 pixels.

    The latter fill all queues in the smallest scene as in the largest. The other blocks are not in the file.
    """
    texture = _texture(BLOCK)
    texture[:, (texture == 0).all(axis=0)] = 1
    with _create(path, size, size, gsd, nodata=0, sparse_ok=True) as sink:
        for top in range(0, size, _SPARSE * BLOCK):
            for left in range(0, size, _SPARSE * BLOCK):
                _write_block(sink, texture, left, top)
        for top in range(0, min(size, _DENSE[0]), BLOCK):
            for left in range(0, min(size, _DENSE[1]), BLOCK):
                _write_block(sink, texture, left, top)
    return path


def _write_block(sink: Any, texture: NDArray[np.uint8], left: int, top: int) -> None:
    part = texture[:, : sink.height - top, : sink.width - left]
    sink.write(part, window=Window(left, top, part.shape[2], part.shape[1]))


def scene_for(card: ModelCard, source: Path, path: Path, size: int | None = None) -> Path:
    """A real scene at the resolution of a model, averaged; mirrored at its edges, or cut, to (size, size) if given.

    Raises:
        GeoError: the source does not suit the card.
    """
    with Scene(source, card) as scene:
        factor = (scene.gsd or card.gsd) / card.gsd
        height, width = (max(1, round(edge * factor)) for edge in (scene.height, scene.width))
        values = scene.read_resampled(height, width)[0]
    image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if size is not None:
        rows, columns = (_mirrored(edge, size) for edge in (height, width))
        image = image[:, rows][:, :, columns]
    with _create(path, image.shape[2], image.shape[1], card.gsd) as sink:
        sink.write(image)
    return path


def _mirrored(edge: int, size: int) -> NDArray[np.int64]:
    place = np.arange(size) % (2 * edge)
    return np.minimum(place, 2 * edge - 1 - place)


def _texture(edge: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(0)
    spectrum = np.fft.rfft2(generator.normal(size=(3, edge, edge)))
    frequency = np.hypot(np.fft.fftfreq(edge)[:, None], np.fft.rfftfreq(edge))
    image = np.fft.irfft2(spectrum / (frequency + 2 / _TEXTURE) ** _SLOPE, s=(edge, edge))
    image = (image - image.mean()) / image.std() * 40 + 120 + generator.normal(size=image.shape) * 1.5
    return np.clip(image, 0, 255).astype(np.uint8)


def _create(path: Path, width: int, height: int, gsd: float, **options: Any) -> Any:
    # Web Mercator stretches by the cosine of the latitude: on the equator a pixel is what it says.
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=3,
        dtype="uint8",
        crs="EPSG:3857",
        transform=rasterio.Affine(gsd, 0, 0, 0, -gsd, math.floor(height * gsd / 2)),
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        compress="deflate",
        photometric="rgb",
        bigtiff="if_safer",
        **options,
    )
