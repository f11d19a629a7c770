"""Images with regions from tar shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.dataset import BaseDataset

import dynamicvis.data.shards as core
from dynamicvis.registry import DATASETS


@DATASETS.register_module()
class RegionShards(BaseDataset):
    """A folder of shards, ``type="dynamicvis.RegionShards"``, for pipelines that begin with ``dynamicvis.LoadRaster``.

    Samples have ``img_bytes``, ``img_path`` (of the shard, and the name in it), ``img_id``, and ``instances`` as mmdet
    has them. See :class:`dynamicvis.data.shards.RegionShards` for the layout, and for the errors.

    Args:
        data_root: folder with the shards and ``meta.json``.
        metainfo: ``classes`` in the order of their labels; without them they are those of ``meta.json``.
        **settings: ``pipeline``, ``test_mode`` and the others of MMEngine's ``BaseDataset``.
    """

    def __init__(self, data_root: str, metainfo: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self.shards = core.RegionShards(data_root, None if metainfo is None else metainfo.get("classes"))
        metainfo = {**(metainfo or {}), "classes": self.shards.classes}
        super().__init__(data_root=data_root, metainfo=metainfo, **settings)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry an image; what it holds is read when it is asked for."""
        return [{"img_id": index} for index in range(len(self.shards))]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Encoded image and regions of sample ``idx``."""
        info = super().get_data_info(idx)
        regions = self.shards.regions(info["img_id"])
        info["img_bytes"] = self.shards.content(info["img_id"])
        info["img_path"] = self.shards.name(info["img_id"])
        info["instances"] = [
            {"bbox": box, "bbox_label": label, "ignore_flag": 0}
            for box, label in zip(regions.boxes.tolist(), regions.labels.tolist(), strict=True)
        ]
        return info
