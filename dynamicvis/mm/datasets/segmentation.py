"""Data sets for semantic segmentation, each in the layout it is published in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mmseg.datasets import BaseSegDataset

from dynamicvis.data.matching import match_by_name, read_names
from dynamicvis.registry import DATASETS


@DATASETS.register_module()
class SegmentationFolder(BaseSegDataset):
    """Images and masks of the same name in two folders, whatever their suffixes.

    The pipeline loads them with ``dynamicvis.LoadRaster`` and ``dynamicvis.LoadMask``.

    Args:
        metainfo: ``classes``, and ``palette`` with an (R, G, B) a class.
        data_root: folder that the other paths are relative to.
        data_prefix: ``img_path`` and ``seg_map_path``, the two folders.
        ann_file: text file with the names of a split, one a line; without it all images are taken.
        **settings: of mmseg's ``BaseSegDataset``.

    Raises:
        DataError: a folder is missing or empty, an image has no mask, or the list names an image that is not there.
    """

    def __init__(
        self,
        metainfo: Mapping[str, Any] | None = None,
        data_root: str | None = None,
        data_prefix: Mapping[str, str] | None = None,
        ann_file: str = "",
        **settings: Any,
    ) -> None:
        prefix = dict(img_path="images", seg_map_path="masks") if data_prefix is None else dict(data_prefix)
        super().__init__(
            metainfo=None if metainfo is None else dict(metainfo),
            data_root=data_root,
            data_prefix=prefix,
            ann_file=ann_file,
            **settings,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Paths of images and masks."""
        names = read_names(self.ann_file) if self.ann_file else None
        pairs = match_by_name(self.data_prefix["img_path"], self.data_prefix["seg_map_path"], names, self.ann_file)
        common = {"label_map": self.label_map, "reduce_zero_label": self.reduce_zero_label}
        return [
            {"img_path": str(image), "seg_map_path": str(mask), **common, "seg_fields": []} for image, mask in pairs
        ]


class _PublishedFolders(SegmentationFolder):
    """A data set that comes in folders of its own.

    Args:
        data_root: its root.
        split: ``"train"``, ``"val"`` or ``"test"``.
        **settings: of mmseg's ``BaseSegDataset``.

    Raises:
        ValueError: another split.
        DataError: see `SegmentationFolder`.
    """

    FOLDERS: ClassVar[dict[str, tuple[str, str]]]

    def __init__(self, data_root: str, split: str, **settings: Any) -> None:
        if split not in self.FOLDERS:
            raise ValueError(f"{type(self).__name__} has the splits {', '.join(self.FOLDERS)}, and no {split!r}")
        images, masks = self.FOLDERS[split]
        super().__init__(data_root=data_root, data_prefix=dict(img_path=images, seg_map_path=masks), **settings)


@DATASETS.register_module()
class MassachusettsRoads(_PublishedFolders):
    """Massachusetts Roads (Mnih 2013): 1108 / 14 / 49 aerial RGB images of 1500 x 1500 pixels at 1 m.

    Layout: ``{train,valid,test}/sat/*.tiff`` and ``{train,valid,test}/map/*.tif``, masks 0 and 255, loaded with
    ``dict(type="dynamicvis.LoadMask", threshold=128)``.
    """

    METAINFO: ClassVar[dict[str, Any]] = dict(classes=("background", "road"), palette=[(0, 0, 0), (255, 200, 60)])
    FOLDERS: ClassVar[dict[str, tuple[str, str]]] = {
        split: (f"{folder}/sat", f"{folder}/map")
        for split, folder in (("train", "train"), ("val", "valid"), ("test", "test"))
    }


@DATASETS.register_module()
class WHUBuilding(_PublishedFolders):
    """WHU building data set, aerial part (Ji et al. 2019): 4736 / 1036 / 2416 RGB images of 512 x 512 pixels at 0.3 m.

    Layout: ``{train,val,test}/image/*.tif`` and ``{train,val,test}/label/*.tif``. Masks are 0 and 255, or 0 and 1 in
    some copies: ``dict(type="dynamicvis.LoadMask", values=(0, (1, 255)))`` loads both.
    """

    METAINFO: ClassVar[dict[str, Any]] = dict(classes=("background", "building"), palette=[(0, 0, 0), (230, 70, 60)])
    FOLDERS: ClassVar[dict[str, tuple[str, str]]] = {
        split: (f"{split}/image", f"{split}/label") for split in ("train", "val", "test")
    }
