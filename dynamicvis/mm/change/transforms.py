"""Loading and augmentation of pairs of images with any number of bands."""

from __future__ import annotations

from typing import Any

import cv2
import mmcv
import mmseg.datasets.transforms
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from dynamicvis.data.raster import DataError
from dynamicvis.mm.loading import LoadRaster
from dynamicvis.registry import TRANSFORMS

# MMEngine seeds NumPy's global generator in every worker, so that is the one to draw from.
_random = np.random.mtrand._rand
_OPENCV_BANDS = 4


@TRANSFORMS.register_module()
class LoadRasterPair(LoadRaster):
    """Load the images of two dates, their bands one after the other, as :class:`LoadRaster` loads one.

    Required keys: ``img_path`` and ``img_path2``; or ``band_paths``, for either date its files, one or more, whose
    bands follow each other. Added keys: ``img`` (H, W, 2C), ``img_shape`` and ``ori_shape``, both (H, W).

    Raises:
        DataError: on loading, the dates differ in size or in their number of bands, or files of one date in size.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        paths = results.get("band_paths") or ([results["img_path"]], [results["img_path2"]])
        dates = []
        for files in paths:
            images: list[NDArray[Any]] = []
            for path in files:
                loaded = super().transform({"img_path": path})
                if loaded is None:
                    return None
                images.append(loaded["img"])
                _check_same_size(files[0], images[0], path, images[-1])
            dates.append(np.concatenate(images, axis=2))
        (first, second), (path, other) = dates, (paths[0][0], paths[1][0])
        _check_same_size(path, first, other, second)
        if first.shape[2] != second.shape[2]:
            raise DataError(
                f"{path} has {first.shape[2]} bands and its other date {other} has {second.shape[2]}; choose the same "
                "bands of both with the `bands` of LoadRasterPair"
            )
        results["img"] = np.concatenate(dates, axis=2)
        results["img_shape"] = results["ori_shape"] = first.shape[:2]
        return results


def _check_same_size(path: str, image: NDArray[Any], other_path: str, other: NDArray[Any]) -> None:
    if image.shape[:2] != other.shape[:2]:
        sizes = [f"{shape[1]} x {shape[0]}" for shape in (image.shape, other.shape)]
        raise DataError(
            f"{path} is {sizes[0]} pixels and {other_path} is {sizes[1]}; images of one place must lie on one grid: "
            "resample one to the other's"
        )


@TRANSFORMS.register_module()
class RandomRotate(mmseg.datasets.transforms.RandomRotate):
    """mmseg's ``RandomRotate`` for images of any number of bands, where OpenCV promises four at most.

    Required and modified keys: ``img`` and every key in ``seg_fields``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rotate, degree = self.generate_degree()
        if not rotate:
            return results
        settings = {"angle": degree, "center": self.center, "auto_bound": self.auto_bound}
        image = results["img"]
        parts = [
            np.atleast_3d(
                mmcv.imrotate(
                    np.ascontiguousarray(image[..., start : start + _OPENCV_BANDS]),
                    border_value=(self.pal_val,) * _OPENCV_BANDS,
                    **settings,
                )
            )
            for start in range(0, image.shape[2], _OPENCV_BANDS)
        ]
        results["img"] = np.concatenate(parts, axis=2)
        results["img_shape"] = results["img"].shape[:2]
        for key in results.get("seg_fields", []):
            results[key] = mmcv.imrotate(
                results[key], border_value=self.seg_pad_val, interpolation="nearest", **settings
            )
        return results


@TRANSFORMS.register_module()
class PhotometricDistortion(BaseTransform):
    """Random brightness, contrast, saturation and hue, drawn for each date on its own.

    Every change is made with a probability of 0.5: brightness, then contrast here or at the end, saturation, hue.

    Required and modified key: ``img`` (H, W, dates * C), in the file's units; becomes float32 within ``value_range``.

    Args:
        brightness_delta: largest shift of all bands, in units of the image.
        contrast_range: factors of all values.
        saturation_range: factors of the saturation; None leaves it. For RGB alone.
        hue_delta: largest shift of the hue in OpenCV's unit of two degrees; None leaves it. For RGB alone.
        dates: number of images whose bands lie one after the other.
        value_range: smallest and largest value that the result may have.

    Raises:
        ValueError: in use, saturation or hue is to change where a date has other than three bands.
    """

    def __init__(
        self,
        brightness_delta: float = 10.0,
        contrast_range: tuple[float, float] = (0.8, 1.2),
        saturation_range: tuple[float, float] | None = (0.8, 1.2),
        hue_delta: float | None = 10.0,
        *,
        dates: int = 2,
        value_range: tuple[float, float] = (0.0, 255.0),
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta
        self.dates = dates
        self.value_range = value_range

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        parts = np.split(results["img"].astype(np.float32), self.dates, axis=2)
        results["img"] = np.concatenate([self._distort(part) for part in parts], axis=2)
        return results

    def _distort(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        if image.shape[2] != 3 and (self.saturation_range is not None or self.hue_delta is not None):
            raise ValueError(
                f"saturation and hue are those of red, green and blue, and a date has {image.shape[2]} bands; give "
                "PhotometricDistortion saturation_range=None and hue_delta=None"
            )
        low, high = self.value_range
        if _random.randint(2):
            image = (image + np.float32(_random.uniform(-self.brightness_delta, self.brightness_delta))).clip(low, high)
        contrast_first = _random.randint(2)
        if contrast_first:
            image = self._change_contrast(image)
        image = self._change_color(image)
        return image if contrast_first else self._change_contrast(image)

    def _change_contrast(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        if not _random.randint(2):
            return image
        return (image * np.float32(_random.uniform(*self.contrast_range))).clip(*self.value_range)

    def _change_color(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        saturate = self.saturation_range is not None and _random.randint(2)
        turn = self.hue_delta is not None and _random.randint(2)
        if not saturate and not turn:
            return image
        low, high = self.value_range
        # Of float32 in 0..1: hue in 0..360, saturation in 0..1.
        hsv = cv2.cvtColor((image - low) / (high - low), cv2.COLOR_RGB2HSV)
        if saturate and self.saturation_range is not None:
            hsv[..., 1] = (hsv[..., 1] * _random.uniform(*self.saturation_range)).clip(0, 1)
        if turn and self.hue_delta is not None:
            hsv[..., 0] = (hsv[..., 0] + 2 * _random.uniform(-self.hue_delta, self.hue_delta)) % 360
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * (high - low) + low
