"""Image transforms for aerial detection that mmdet lacks."""

from __future__ import annotations

import math

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from dynamicvis.registry import TRANSFORMS

# MMEngine seeds NumPy's global generator in every worker, so that is the one to draw from.
_random = np.random.mtrand._rand


@TRANSFORMS.register_module()
class RandomRotate90(BaseTransform):
    """Rotate image, boxes and masks by 0, 90, 180 or 270 degrees, each with the same probability.

    Required keys: ``img`` (H, W, C). Modified keys: ``img``, ``img_shape``, and where present ``gt_bboxes`` (mmdet
    boxes, pixels) and ``gt_masks``.

    Raises:
        TypeError: on masks as polygons; ``LoadAnnotations`` makes bitmaps of them unless told otherwise.
    """

    def transform(self, results: dict) -> dict:
        turns = _random.randint(4)
        height, width = results["img"].shape[:2]
        results["img"] = np.ascontiguousarray(np.rot90(results["img"], turns))
        results["img_shape"] = results["img"].shape[:2]
        boxes = results.get("gt_bboxes")
        if boxes is not None:
            for _ in range(turns):
                # One counter-clockwise quarter turn takes the point (x, y) to (y, width - x).
                boxes.project_(np.array([[0, 1, 0], [-1, 0, width], [0, 0, 1]], dtype=np.float32))
                height, width = width, height
        masks = results.get("gt_masks")
        if masks is not None:
            if not isinstance(masks.masks, np.ndarray):
                raise TypeError("RandomRotate90 takes masks as bitmaps; leave poly2mask of LoadAnnotations on")
            bitmaps = np.ascontiguousarray(np.rot90(masks.masks, turns, axes=(1, 2)))
            results["gt_masks"] = type(masks)(bitmaps, *results["img_shape"])
        return results


@TRANSFORMS.register_module()
class RandomScale(BaseTransform):
    """Resize image, boxes and masks by a factor drawn log-uniformly, relative to the size at hand.

    Required key: ``img``. Modified keys: those of ``mmdet.Resize``, ``gt_bboxes`` and ``gt_masks`` where present.

    Args:
        ratio_range: smallest and largest factor, both positive.
    """

    def __init__(self, ratio_range: tuple[float, float]) -> None:
        self.ratio_range = ratio_range
        self._resize = TRANSFORMS.build({"type": "mmdet.Resize", "scale_factor": 1.0, "keep_ratio": True})

    def transform(self, results: dict) -> dict:
        low, high = self.ratio_range
        self._resize.scale_factor = math.exp(_random.uniform(math.log(low), math.log(high)))
        return self._resize(results)


@TRANSFORMS.register_module()
class RadiometricJitter(BaseTransform):
    """Random gain per band, gamma, desaturation, blur and noise: the differences between sensors, sites and seasons.

    Required and modified key: ``img``, (H, W, C) in 0..peak of any numeric type; the result is float32 in 0..peak.

    Args:
        gain: each band is multiplied by a factor from ``[1 - gain, 1 + gain]``.
        gamma: largest exponent; drawn log-uniformly from ``[1 / gamma, gamma]``.
        gray_prob: probability of replacing all bands by their mean.
        blur: largest standard deviation of a Gaussian blur, pixels; half of the images are blurred.
        noise: largest standard deviation of additive noise, in units of the image; half of the images get it.
        peak: largest value; what is above is cut off. 255 for 8-bit images, 10000 for reflectance times 10000.
    """

    def __init__(
        self,
        gain: float = 0.2,
        gamma: float = 1.5,
        gray_prob: float = 0.2,
        blur: float = 1.0,
        noise: float = 6.0,
        peak: float = 255.0,
    ) -> None:
        self.peak = peak
        self.gain = gain
        self.gamma = gamma
        self.gray_prob = gray_prob
        self.blur = blur
        self.noise = noise

    def transform(self, results: dict) -> dict:
        image = results["img"].astype(np.float32).clip(0, self.peak)
        bands = image.shape[2]
        exponent = math.exp(_random.uniform(-1, 1) * math.log(self.gamma))
        image = self.peak * (image / self.peak) ** exponent
        image *= _random.uniform(1 - self.gain, 1 + self.gain, size=bands)
        if _random.uniform() < self.gray_prob:
            image[:] = image.mean(axis=2, keepdims=True)
        if _random.uniform() < 0.5 and self.blur > 0:
            image = cv2.GaussianBlur(image, (0, 0), _random.uniform(0.1, max(self.blur, 0.1)))
        if _random.uniform() < 0.5:
            image += _random.normal(0, _random.uniform(0, self.noise), size=image.shape)
        results["img"] = image.clip(0, self.peak).astype(np.float32)
        return results


@TRANSFORMS.register_module()
class BackgroundJitter(BaseTransform):
    """Change the colours between the objects independently of theirs: another soil, another season.

    Inside a soft ellipse in every box the image stays as it is; outside, it is desaturated, and scaled and shifted per
    band, by random amounts.

    Required keys: ``img``, (H, W, C) in 0..255 of any numeric type, and ``gt_bboxes`` (mmdet boxes, pixels). Modified
    key: ``img``, then float32 in 0..255.

    Args:
        prob: probability of changing an image.
        gain: each band is multiplied by a factor from ``[1 - gain, 1 + gain]``.
        shift: all bands are shifted by one value from ``[-shift, shift]``, in units of the image.
    """

    def __init__(self, prob: float = 0.5, gain: float = 0.3, shift: float = 60.0) -> None:
        self.prob = prob
        self.gain = gain
        self.shift = shift

    def transform(self, results: dict) -> dict:
        if _random.uniform() >= self.prob:
            return results
        image = results["img"].astype(np.float32)
        gray = image.mean(axis=2, keepdims=True)
        background = image + _random.uniform(0, 1) * (gray - image)
        background *= _random.uniform(1 - self.gain, 1 + self.gain, size=image.shape[2])
        background += _random.uniform(-self.shift, self.shift)
        keep = _soft_ellipses(results["gt_bboxes"].tensor.numpy(), image.shape[0], image.shape[1])[..., None]
        results["img"] = (keep * image + (1 - keep) * background).clip(0, 255).astype(np.float32)
        return results


def _soft_ellipses(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) mask: 1 in the middle of every (left, top, right, bottom) box, falling to 0 at its ellipse."""
    mask = np.zeros((height, width), np.float32)
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    for left, top, right, bottom in boxes:
        inside_x = np.flatnonzero((columns > left) & (columns < right))
        inside_y = np.flatnonzero((rows > top) & (rows < bottom))
        if not len(inside_x) or not len(inside_y):
            continue
        x = (2 * columns[inside_x] - left - right) / (right - left)
        y = (2 * rows[inside_y] - top - bottom) / (bottom - top)
        bump = np.clip(2 * (1 - x[None] ** 2 - y[:, None] ** 2), 0, 1)
        window = mask[inside_y[0] : inside_y[-1] + 1, inside_x[0] : inside_x[-1] + 1]
        np.maximum(window, bump, out=window)
    return mask
