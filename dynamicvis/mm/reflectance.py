"""Sentinel-2 reflectance for models that learnt from 8-bit imagery."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from dynamicvis.data.raster import read_raster
from dynamicvis.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadBigEarthNetPatch(BaseTransform):
    """Load bands of a patch of BigEarthNet v1, a folder with one GeoTIFF a band, at the 10 m grid of 120 x 120 pixels.

    Bands of 20 m and 60 m are resampled bilinearly. Required key: ``img_path``, the folder. Added keys: ``img``
    (120, 120, C) float32, in the units of the files (reflectance times 10,000); ``img_shape`` and ``ori_shape``.

    Args:
        bands: names as in the files, such as ``"B04"`` or ``"B8A"``, in this order.
        size: edge of the patch, pixels.

    Raises:
        DataError: on loading, a band is missing or damaged.
    """

    def __init__(self, bands: Sequence[str] = ("B04", "B03", "B02"), size: int = 120) -> None:
        self.bands = tuple(bands)
        self.size = size

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        folder = Path(results["img_path"])
        layers = []
        for band in self.bands:
            layer = read_raster(folder / f"{folder.name}_{band}.tif")[..., 0].astype(np.float32)
            layers.append(cv2.resize(layer, (self.size, self.size), interpolation=cv2.INTER_LINEAR))
        results["img"] = np.stack(layers, axis=2)
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class ReflectanceToByte(BaseTransform):
    """Stretch Sentinel-2 values linearly to 0..255, as ESA's true-colour images do, for 8-bit mean and deviation.

    Required and modified key: ``img``, any shape; the result is float32, clipped to 0..255, not rounded.

    Args:
        white: value that becomes 255. ESA saturates its true-colour product of level 2A at 2,000, a reflectance of 0.2
            (Sentinel-2 products specification).
    """

    def __init__(self, white: float = 2000.0) -> None:
        if white <= 0:
            raise ValueError(f"white must be positive, got {white}")
        self.white = white

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results["img"] = (results["img"].astype(np.float32) * (255 / self.white)).clip(0, 255)
        return results
