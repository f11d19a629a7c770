"""Small data sets for segmentation, each in the layout it is published in: bright blocks and lines on a dark ground."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.warp import transform_geom

from dynamicvis.data.preparation.oam_buildings import SPLITS
from dynamicvis.data.raster import write_raster

SIZE = 64


def draw(seed: int, size: int = SIZE) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An RGB image (size, size, 3), noise that is bright where the mask (size, size) is 255, and not where it is 0."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    for left, top in generator.integers(0, size - 20, (3, 2)):
        mask[top : top + 16, left : left + 12] = 255
    image = generator.integers(0, 80, (size, size, 3)).astype(np.uint8)
    image[mask > 0] += 150
    return image, mask


def write_massachusetts(root: Path, counts: dict[str, int], size: int = SIZE) -> Path:
    """``ROOT/massachusetts-roads`` with ``{train,valid,test}/{sat,map}``."""
    root = root / "massachusetts-roads"
    for split, count in counts.items():
        for kind in ("sat", "map"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            image, mask = draw(index, size)
            write_raster(root / split / "sat" / f"1007{index}_15.tiff", image)
            write_raster(root / split / "map" / f"1007{index}_15.tif", cv2.blur(mask, (2, 2)))
    return root


def write_whu(root: Path, counts: dict[str, int]) -> Path:
    """``ROOT/whu-building`` with ``{train,val,test}/{image,label}``."""
    root = root / "whu-building"
    for split, count in counts.items():
        for kind in ("image", "label"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            image, mask = draw(index)
            write_raster(root / split / "image" / f"{index}.tif", image)
            write_raster(root / split / "label" / f"{index}.tif", mask)
    return root


def write_road_windows(root: Path, scenes: int = 5, windows: int = 2) -> Path:
    """``ROOT/images/*.jpg`` and ``ROOT/masks/*.png``, masks 0 and 1."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for index in range(scenes * windows):
        image, mask = draw(index)
        name = f"1{index // windows}0_15_{index % windows * 500}_0"
        assert cv2.imwrite(str(root / "images" / f"{name}.jpg"), image[..., ::-1])
        assert cv2.imwrite(str(root / "masks" / f"{name}.png"), mask // 255)
    return root


def write_oam(root: Path, height: int = 256, width: int = 384) -> Path:
    """Scenes of 0.075 m in EPSG:3857, ``AREA_X_Y.tif``, and the outlines of their bright blocks, ``AREA.geojson``."""
    root.mkdir(parents=True)
    outlines: dict[str, list[dict]] = {}
    for index, scene in enumerate(SPLITS):
        generator = np.random.default_rng(index)
        transform = from_origin(1e6 * index, 1e6, 0.075, 0.075)
        image = generator.integers(0, 80, (height, width, 3)).astype(np.uint8)
        for left, top in ((40, 16), (200, 100), (300, 180)):
            right, bottom = left + 64, top + 48
            image[top:bottom, left:right] += 150
            corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
            ring = [transform * corner for corner in corners]
            shape = {"type": "Polygon", "coordinates": [ring]}
            shape = transform_geom("EPSG:3857", "EPSG:4326", shape, precision=9)
            outlines.setdefault(scene.partition("_")[0], []).append(
                {"type": "Feature", "properties": {"osm_id": index}, "geometry": shape}
            )
        profile = {"width": width, "height": height, "count": 3, "dtype": "uint8", "crs": "EPSG:3857"}
        with rasterio.open(root / f"{scene}.tif", "w", transform=transform, **profile) as file:
            file.write(image.transpose(2, 0, 1))
    for area, features in outlines.items():
        (root / f"{area}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return root
