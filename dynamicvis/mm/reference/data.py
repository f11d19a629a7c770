"""The reference's data sets, transforms, metrics and hooks by their names, in the scopes of its configs.

Class names, and so the numbers of labels, are those of this package's data sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import mmdet.registry
import mmpretrain.registry
import mmseg.registry
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dist import get_rank, get_world_size
from mmseg.datasets import transforms as seg_transforms
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.visualization import SegLocalVisualizer
from torch.utils.data import IterableDataset, get_worker_info

from dynamicvis.data.matching import images_by_name
from dynamicvis.data.raster import DataError
from dynamicvis.data.text import read_lines
from dynamicvis.mm.change.datasets import PairDataset
from dynamicvis.mm.change.transforms import LoadRasterPair, PhotometricDistortion, RandomRotate
from dynamicvis.mm.datasets.detection import CocoDataset
from dynamicvis.mm.datasets.regions import RegionShards
from dynamicvis.mm.datasets.scenes import AID, UCMerced
from dynamicvis.mm.datasets.segmentation import MassachusettsRoads, SegmentationFolder, WHUBuilding
from dynamicvis.mm.loading import LoadMask, LoadRaster
from dynamicvis.mm.metrics.detection import CocoMetric
from dynamicvis.mm.metrics.segmentation import SegmentationMetric
from dynamicvis.mm.reference.arguments import require
from dynamicvis.mm.reference.scopes import OPENCD

# Classification and pretraining.


@mmpretrain.registry.DATASETS.register_module()
class RSClsDataset(AID):
    """Scenes named by ``CLASS/FILE`` in a list, below ``data_root``.

    Args:
        data_name: ``"AID"`` or ``"UC"``, whose classes are meant.
        **settings: as of `dynamicvis.AID`.
    """

    def __init__(self, data_name: str = "AID", **settings: Any) -> None:
        require("RSClsDataset", "data_name", data_name, "AID", "UC")
        super().__init__(metainfo=(AID if data_name == "AID" else UCMerced).METAINFO, **settings)


@mmdet.registry.DATASETS.register_module()
class PretrainFmowWebDataset(IterableDataset):
    """`dynamicvis.RegionShards`, for dataloaders without a sampler: shuffled in training, each image once an epoch.

    Every process, and every worker in it, has images of its own; in training, as many in each process.

    Args:
        shards_path_or_url: the shards, ``FOLDER/{00000..00127}.tar``, of which the folder is taken, whole.
        pipeline: transforms; boxes and labels are loaded before the first.
        test_mode: in the order of the shards.
        data_name, per_gpu_batch_size, num_workers, shuffle_buffer_size: not needed, and ignored.
        **settings: as there.
    """

    def __init__(
        self,
        shards_path_or_url: str,
        pipeline: Sequence[Any],
        data_name: str = "Fmow",
        per_gpu_batch_size: int = 1,
        num_workers: int = 1,
        shuffle_buffer_size: int = 5000,
        test_mode: bool = False,
        **settings: Any,
    ) -> None:
        transforms = [{"type": "mmdet.LoadAnnotations", "with_bbox": True}, *pipeline]
        folder = str(Path(shards_path_or_url).parent)
        self._shards = RegionShards(folder, pipeline=transforms, test_mode=test_mode, **settings)
        self._test_mode = test_mode

    @property
    def metainfo(self) -> dict[str, Any]:
        """Of the shards."""
        return self._shards.metainfo

    def __len__(self) -> int:
        """Images of this process in training, of all in testing."""
        return len(self._shards) if self._test_mode else len(self._shards) // get_world_size()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Samples for the model."""
        own = range(get_rank(), len(self._shards), get_world_size())
        if not self._test_mode:
            own = own[: len(self)]
        worker = get_worker_info()
        if worker is not None:
            own = own[worker.id :: worker.num_workers]
        order = range(len(own)) if self._test_mode else torch.randperm(len(own)).tolist()
        return (self._shards[own[place]] for place in order)


class _ReversedBands(BaseTransform):
    """Loads by this package's transform, and gives the bands of each date from blue to red, as OpenCV does."""

    dates = 1

    def __init__(self, to_float32: bool = False, backend_args: Any = None) -> None:
        require(type(self).__name__, "backend_args", backend_args, None)
        self._load = self.loader()
        self._to_float32 = to_float32

    loader: ClassVar[type[LoadRaster]] = LoadRaster

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Add ``img`` (H, W, dates * C)."""
        loaded = self._load.transform(results)
        if loaded is None:
            return None
        image = np.concatenate([date[..., ::-1] for date in np.split(loaded["img"], self.dates, axis=2)], axis=2)
        loaded["img"] = np.ascontiguousarray(image, dtype=np.float32 if self._to_float32 else None)
        return loaded


@mmpretrain.registry.TRANSFORMS.register_module()
class LoadImageFromImgbytes(_ReversedBands):
    """Loads the encoded image of a sample from a shard."""


# Detection and instance segmentation.


@mmdet.registry.DATASETS.register_module()
class LevirShipDetDataset(CocoDataset):
    """LEVIR-Ship with COCO annotations."""

    METAINFO: ClassVar[dict[str, Any]] = {"classes": ("ship",), "palette": [(220, 20, 60)]}


@mmdet.registry.DATASETS.register_module()
class SSDDInsSegDataset(LevirShipDetDataset):
    """SSDD with COCO annotations."""


@mmdet.registry.DATASETS.register_module()
class NWPUInsSegDataset(CocoDataset):
    """NWPU VHR-10 with COCO annotations."""

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": (
            *("airplane", "ship", "storage_tank", "baseball_diamond", "tennis_court"),
            *("basketball_court", "ground_track_field", "harbor", "bridge", "vehicle"),
        )
    }


# With NumPy 2, mmdet's fails on the list of thresholds in the config for LEVIR-Ship.
mmdet.registry.METRICS.register_module(name="CocoMetric", module=CocoMetric, force=True)

# Segmentation.


@mmseg.registry.DATASETS.register_module()
class MassachusettsRoadsSegDataset(SegmentationFolder):
    """Roads in two folders, by ``data_prefix``."""

    METAINFO = MassachusettsRoads.METAINFO


@mmseg.registry.DATASETS.register_module()
class WHUSegDataset(SegmentationFolder):
    """Buildings in two folders, by ``data_prefix``."""

    METAINFO = WHUBuilding.METAINFO


@mmseg.registry.TRANSFORMS.register_module()
class LoadAnnotationsToBinary(LoadMask):
    """`dynamicvis.LoadMask`, class 1 from 128 on."""

    def __init__(self) -> None:
        super().__init__(threshold=128)


class _ForegroundMetric(SegmentationMetric):
    """`dynamicvis.SegmentationMetric` with the names of the reference's results: ``iou_road``, ``f1_road``, ..."""

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Results with names in lower case."""
        return {name.lower(): value for name, value in super().compute_metrics(results).items()}


@mmseg.registry.METRICS.register_module()
class SegMetric(_ForegroundMetric):
    """Metric of segmentation, prefix ``seg``."""


class _VisualizationHook(SegVisualizationHook):
    """mmseg's hook, for configs that name a folder for pictures and do not draw any.

    Args:
        test_out_dir: ignored; ``tools/test.py --out`` draws.
        **settings: as of mmseg's.
    """

    def __init__(self, test_out_dir: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)


mmseg.registry.HOOKS.register_module(name="SegVisualizationHook", module=_VisualizationHook, force=True)

# Change detection.


@OPENCD["METRICS"].register_module()
class CDMetric(_ForegroundMetric):
    """Metric of change detection, prefix ``cd``."""

    default_prefix = "cd"


class _PairFolders(PairDataset):
    """Pairs and labels in three folders, all of them or those that a list names.

    Args:
        data_root: folder of the data set.
        data_prefix: ``img_path_from``, ``img_path_to`` and ``seg_map_path``, below it.
        ann_file: list of names, below it.
        **settings: as for mmseg's data sets.
    """

    def __init__(self, data_root: str, data_prefix: dict[str, str], ann_file: str = "", **settings: Any) -> None:
        self._folders = tuple(
            Path(data_root) / data_prefix[name] for name in ("img_path_from", "img_path_to", "seg_map_path")
        )
        self._list = Path(data_root) / ann_file if ann_file else None
        super().__init__(data_root, ann_file or self._folders[0].name, **settings)

    def list_pairs(self) -> list[tuple[Path, Path, Path]]:
        """Files of all pairs, in the order of the list or of the names."""
        files = [images_by_name(folder) for folder in self._folders]
        names = list(files[0]) if self._list is None else [Path(line).stem for line in _lines(self._list)]
        for name in names:
            for folder, by_name in zip(self._folders, files, strict=True):
                if name not in by_name:
                    raise DataError(f"{folder} has no image {name}; each pair needs both dates and a label")
        return [(files[0][name], files[1][name], files[2][name]) for name in names]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path} does not exist; it names the images of a split, one a line")
    return [line for line in read_lines(path) if line]


for _name in ("LEVIR_CD_Dataset", "WHU_CD_Dataset", "OSCD_CD_Dataset"):
    OPENCD["DATASETS"].register_module(name=_name, module=_PairFolders)


class MultiImgLoadImageFromFile(_ReversedBands):
    """Loads the images of both dates."""

    dates = 2
    loader = LoadRasterPair


class MultiImgLoadAnnotations(LoadMask):
    """Loads labels of 0 and 1, or 0 and 255."""

    def __init__(self) -> None:
        super().__init__(values=(0, (1, 255)))


class MultiImgPad(BaseTransform):
    """Pads at the right and at the bottom, images with 0 and labels with 255.

    Args:
        size: (width, height) to reach.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pad ``img`` (H, W, C) and ``gt_seg_map`` (H, W)."""
        height, width = results["img"].shape[:2]
        margin = ((0, max(self._size[1] - height, 0)), (0, max(self._size[0] - width, 0)))
        results["img"] = np.pad(results["img"], (*margin, (0, 0)))
        results["img_shape"] = results["pad_shape"] = results["img"].shape[:2]
        for key in results.get("seg_fields", []):
            results[key] = np.pad(results[key], margin, constant_values=255)
        return results


for _name, _transform in {
    "LoadImageFromFile": MultiImgLoadImageFromFile,
    "LoadAnnotations": MultiImgLoadAnnotations,
    "Pad": MultiImgPad,
    "PackSegInputs": seg_transforms.PackSegInputs,
    "PhotoMetricDistortion": PhotometricDistortion,
    "RandomCrop": seg_transforms.RandomCrop,
    "RandomFlip": mmseg.registry.TRANSFORMS.get("RandomFlip"),
    "RandomResize": mmseg.registry.TRANSFORMS.get("RandomResize"),
    "RandomRotate": RandomRotate,
    "Resize": mmseg.registry.TRANSFORMS.get("Resize"),
}.items():
    OPENCD["TRANSFORMS"].register_module(name=f"MultiImg{_name}", module=_transform)

OPENCD["HOOKS"].register_module(name="CDVisualizationHook", module=_VisualizationHook)
OPENCD["VISUALIZERS"].register_module(name="CDLocalVisualizer", module=SegLocalVisualizer)
