"""Loading of images of any number of bands, and of masks that are checked."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from dynamicvis.data.raster import DataError, decode_raster, read_raster
from dynamicvis.data.shards import TOLERANCE
from dynamicvis.registry import HOOKS, TRANSFORMS

IGNORE_INDEX = 255


class _Count:
    """A number that loading workers raise and the process of the run reads."""

    _SLOTS = 256  # workers that count on their own: a sum of theirs needs no lock

    def __init__(self) -> None:
        self._by_worker = torch.zeros(self._SLOTS, dtype=torch.int64).share_memory_()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Count:
        # A copied tensor would not be shared.
        return _Count()

    def raise_by_one(self) -> None:
        worker = get_worker_info()
        self._by_worker[0 if worker is None else 1 + worker.id % (self._SLOTS - 1)] += 1

    def __int__(self) -> int:
        return int(self._by_worker.sum())


@TRANSFORMS.register_module()
class LoadRaster(BaseTransform):
    """Load an image of any number of bands: GeoTIFF, TIFF, PNG, JPEG and whatever else GDAL reads.

    Bands keep the order of the file: ``bgr_to_rgb`` of a data preprocessor stays False. 8-bit images stay 8-bit;
    every other type becomes float32 with the values of the file, since OpenCV and torch know few integer types.

    A photo is turned as its camera says it is to be shown, which is how it was annotated; see
    :func:`dynamicvis.data.raster.read_raster`.

    Required key: ``img_path``, and ``img_bytes`` where the file's content is at hand already; where there are
    ``height`` and ``width``, as annotations give them, the image must have that size. Added keys: ``img`` (H, W, C),
    ``img_shape`` and ``ori_shape``, both (H, W).

    Args:
        bands: numbers of the bands to load, in this order, counted from 1; None loads all.
        to_float32: make float32 of 8-bit images too.
        on_error: what a file does that is missing or damaged. ``"raise"`` stops the run. ``"skip"`` names it in the
            log and draws another sample in its place, in training; in testing it stops the run all the same.
            :class:`SkippedImagesHook` logs how many were skipped.

    Raises:
        ValueError: ``on_error`` is something else.
        DataError: on loading, the image is of another size than its annotations say; and see `read_raster`.
    """

    def __init__(
        self, bands: Sequence[int] | None = None, *, to_float32: bool = False, on_error: str = "raise"
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
        self.bands = None if bands is None else tuple(bands)
        self.to_float32 = to_float32
        self.on_error = on_error
        self._skipped = _Count()

    @property
    def skipped(self) -> int:
        """Number of images skipped so far, by all workers of this process."""
        return int(self._skipped)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        try:
            if "img_bytes" in results:
                image = decode_raster(results.pop("img_bytes"), results["img_path"], self.bands)
                _check_regions(image, results)
            else:
                image = read_raster(results["img_path"], self.bands)
            _check_size(image, results)
        except DataError as error:
            if self.on_error == "raise":
                raise
            self._skipped.raise_by_one()
            print_log(f"skipped: {error}", logger="current", level=logging.WARNING)
            return None
        if self.to_float32 or image.dtype != np.uint8:
            image = image.astype(np.float32)
        results["img"] = image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f"LoadRaster(bands={self.bands}, to_float32={self.to_float32}, on_error={self.on_error!r})"


def _check_size(image: NDArray[Any], results: Mapping[str, Any]) -> None:
    height, width = image.shape[:2]
    annotated = (results.get("height", height), results.get("width", width))
    if annotated == (height, width):
        return
    hint = "annotations and images are of different versions"
    if annotated == (width, height):
        hint = (
            "the two are exchanged: if the file says how it is to be turned (EXIF orientation), annotate it as it is "
            "shown, or remove that mark from the file"
        )
    raise DataError(
        f"{results['img_path']} is shown as {width} x {height} pixels, and its annotations are of {annotated[1]} x "
        f"{annotated[0]}; {hint}"
    )


def _check_regions(image: NDArray[Any], results: Mapping[str, Any]) -> None:
    """Raise where a region reaches out of an image whose size was not known before it was decoded."""
    height, width = image.shape[:2]
    for left, top, right, bottom in (instance["bbox"] for instance in results.get("instances", ())):
        if left >= width or top >= height or right > width + TOLERANCE or bottom > height + TOLERANCE:
            raise DataError(
                f"{results['img_path']}: the box {[left, top, right, bottom]} (left, top, right, bottom) lies outside "
                f"its image of {width} x {height} pixels; make the shards again with the region corrected or removed"
            )


@TRANSFORMS.register_module()
class LoadMask(BaseTransform):
    """Load the class of every pixel from a single-band file, and refuse values that are no class.

    A file of several bands is taken where they are all equal, as in grey masks saved as RGB.

    Required keys: ``seg_map_path``, ``ori_shape`` (set by the loading of the image), ``seg_fields``. Added key:
    ``gt_seg_map``, (H, W) uint8: class numbers, 255 where a pixel is to be ignored. Where a data set of mmseg was given
    ``metainfo.classes`` of its own, they are the numbers of those, by its ``label_map``.

    Args:
        values: the values in the file that stand for class 0, 1, ...; a tuple in a place names several values of that
            class. ``(0, 255)`` for binary masks of 0 and 255.
        ignore: values in the file that stand for pixels to be ignored, other than those in ``values``.
        threshold: instead of ``values``: class 1 from this value on, class 0 below, for masks with soft borders.

    Raises:
        ValueError: not exactly one of ``values`` and ``threshold`` is given.
        DataError: on loading, a value is no class, the mask is of another size than its image, or it has bands that
            differ; and see `read_raster`. Or the data set has ``reduce_zero_label``, which ``values`` stand for here.
    """

    def __init__(
        self,
        values: Sequence[int | Sequence[int]] | None = None,
        *,
        ignore: Sequence[int] = (IGNORE_INDEX,),
        threshold: float | None = None,
    ) -> None:
        if (values is None) == (threshold is None):
            raise ValueError("LoadMask needs either values, the value of each class, or threshold")
        self.threshold = threshold
        self._classes: dict[int, int] = {} if threshold is not None else dict.fromkeys(ignore, IGNORE_INDEX)
        for index, entry in enumerate(values or ()):
            self._classes |= dict.fromkeys([entry] if isinstance(entry, int) else entry, index)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        path = results["seg_map_path"]
        if results.get("reduce_zero_label"):
            raise DataError(
                f"{path}: LoadMask does not know reduce_zero_label; leave it out of the data set, and give LoadMask "
                "values=(1, 2, ...) and ignore=(0, 255)"
            )
        mask = read_mask(path)
        if mask.shape != tuple(results["ori_shape"]):
            (height, width), (rows, columns) = results["ori_shape"], mask.shape
            raise DataError(
                f"{path} is {columns} x {rows} pixels and its image {results.get('img_path')} {width} x {height}; "
                "a mask must have the size of its image"
            )
        results["gt_seg_map"] = _renumbered(self._classify(mask, path), results.get("label_map"))
        # A list of its own: augmented copies of a sample in testing share theirs.
        results["seg_fields"] = [*results.get("seg_fields", ()), "gt_seg_map"]
        return results

    def _classify(self, mask: NDArray[Any], path: str) -> NDArray[np.uint8]:
        if self.threshold is not None:
            return (mask >= self.threshold).astype(np.uint8)
        found = np.unique(mask)
        unknown = [value for value in found.tolist() if value not in self._classes]
        if unknown:
            count, expected = int((mask == unknown[0]).sum()), ", ".join(map(str, sorted(self._classes)))
            raise DataError(
                f"{path} holds the value {unknown[0]:g}, which is no class, at {count} pixels; "
                f"expected values are {expected}"
            )
        classes = np.array([self._classes[value] for value in found.tolist()], np.uint8)
        return classes[np.searchsorted(found, mask)]

    def __repr__(self) -> str:
        return f"LoadMask(values={self._classes}, threshold={self.threshold})"


def _renumbered(classes: NDArray[np.uint8], label_map: Mapping[int, int] | None) -> NDArray[np.uint8]:
    if not label_map:
        return classes
    table = np.arange(256, dtype=np.uint8)
    table[list(label_map)] = list(label_map.values())
    return table[classes]


def read_mask(path: str) -> NDArray[Any]:
    """Values (H, W) of a single-band file, or of one whose bands are all equal.

    Raises:
        DataError: the bands differ, or hold NaN; and see `read_raster`.
    """
    bands = read_raster(path)
    if bands.dtype.kind == "f" and (count := int(np.isnan(bands).any(axis=2).sum())):
        raise DataError(f"{path} holds NaN at {count} pixels, which is no class; give these pixels a value of `ignore`")
    if (bands != bands[..., :1]).any():
        raise DataError(f"{path} has {bands.shape[2]} bands that differ; a mask has one band of class values")
    return bands[..., 0]


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """Logs at the end of a training epoch how many images could not be read and were replaced by others in it."""

    def __init__(self) -> None:
        self._before = 0

    def before_train_epoch(self, runner: Runner) -> None:
        self._before = self._count(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        count = torch.tensor(self._count(runner) - self._before)
        all_reduce(count)
        if count:
            print_log(
                f"{int(count)} times in this epoch an image could not be read and another took its place",
                logger="current",
            )

    def _count(self, runner: Runner) -> int:
        return sum(loader.skipped for loader in _loaders(runner.train_dataloader.dataset))


def _loaders(dataset: Any) -> Iterator[LoadRaster]:
    """Image loaders in the pipelines of a data set, however it is wrapped."""
    for transform in getattr(getattr(dataset, "pipeline", None), "transforms", ()):
        if isinstance(transform, LoadRaster):
            yield transform
    for inner in (*getattr(dataset, "datasets", ()), getattr(dataset, "dataset", None)):
        if inner is not None:
            yield from _loaders(inner)
