"""Shards and COCO boxes as data sets of OpenMMLab, and what makes their order and augmentation reproducible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from region_data import COLORS, make_shards

import dynamicvis.mm  # noqa: F401 - before anything imports mmdet
from dynamicvis.data.raster import DataError
from dynamicvis.registry import DATA_SAMPLERS, DATASETS

CLASSES = ["red", "green", "blue", "yellow"]
LOAD = [dict(type="dynamicvis.LoadRaster"), dict(type="LoadAnnotations", with_bbox=True)]
TRAIN = [
    *LOAD,
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=(64, 64), ratio_range=(0.6, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(64, 64), crop_type="absolute", allow_negative_crop=False),
    dict(type="Pad", size=(64, 64)),
    dict(type="PackDetInputs"),
]


@pytest.fixture(autouse=True)
def mmdet_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "train", 6, CLASSES)


def build(folder: Path, pipeline: list[dict[str, Any]], **settings: Any) -> Any:
    return DATASETS.build(dict(type="dynamicvis.RegionShards", data_root=str(folder), pipeline=pipeline, **settings))


def test_samples_hold_image_boxes_and_labels(folder):
    dataset = build(folder, [*LOAD, dict(type="PackDetInputs")], test_mode=True)
    assert dataset.metainfo["classes"] == tuple(CLASSES)
    assert len(dataset) == 6
    for i in range(6):
        item = dataset[i]
        assert item["inputs"].shape == (3, 64, 64)
        assert item["data_samples"].img_id == i
        assert item["data_samples"].img_path.endswith(f"{i // 2:05d}.tar/image_{i}.png")
        instances = item["data_samples"].gt_instances
        assert len(instances) == 1 + i % 4
        for box, label in zip(instances.bboxes.tensor.int().tolist(), instances.labels.tolist(), strict=True):
            inside = item["inputs"][:, box[1] : box[3], box[0] : box[2]]
            assert (inside == torch.from_numpy(COLORS[label])[:, None, None]).all()


def test_order_of_the_classes_is_the_configs(folder):
    shuffled = ["blue", "yellow", "green", "red"]
    mine = build(folder, [], metainfo=dict(classes=shuffled)).get_data_info(3)["instances"]
    theirs = build(folder, []).get_data_info(3)["instances"]
    assert [shuffled[item["bbox_label"]] for item in mine] == [CLASSES[item["bbox_label"]] for item in theirs]
    with pytest.raises(DataError, match=r"image_3\.png: the class '\w+' is none of the 1 classes"):
        build(folder, [], metainfo=dict(classes=["violet"])).get_data_info(3)


def damage(folder: Path, index: int) -> None:
    """Cut the image's content off, in the shard."""
    dataset = build(folder, [])
    shard, offset, size, *_ = dataset.shards._places[index].tolist()
    path = folder / f"{shard:05d}.tar"
    content = bytearray(path.read_bytes())
    content[offset + 60 : offset + size] = bytes(size - 60)
    path.write_bytes(content)


def test_a_damaged_image_stops_the_run_and_is_named(folder):
    damage(folder, 3)
    with pytest.raises(DataError, match=r"00001\.tar/image_3\.png cannot be read as an image"):
        build(folder, TRAIN)[3]


def test_a_damaged_image_is_replaced_and_counted_by_option(folder):
    damage(folder, 3)
    dataset = build(folder, [dict(type="dynamicvis.LoadRaster", on_error="skip"), *TRAIN[1:]])
    assert dataset[3]["data_samples"].img_path.rsplit("/", 1)[1] != "image_3.png"
    assert dataset.pipeline.transforms[0].skipped >= 1


def test_evaluation_replaces_no_image(folder):
    damage(folder, 3)
    pipeline = [dict(type="dynamicvis.LoadRaster", on_error="skip"), *LOAD[1:], dict(type="PackDetInputs")]
    with pytest.raises(Exception, match=r"None"):
        build(folder, pipeline, test_mode=True)[3]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return torch.equal(a["inputs"], b["inputs"])


def test_a_sample_depends_on_seed_epoch_and_number_alone(folder):
    inner = dict(type="dynamicvis.RegionShards", data_root=str(folder), pipeline=TRAIN)
    dataset = DATASETS.build(dict(type="dynamicvis.SeededDataset", dataset=inner))
    dataset.full_init()
    assert (len(dataset), dataset.metainfo["classes"]) == (6, tuple(CLASSES))

    def epoch(number: int, seed: int = 7) -> list[Any]:
        sampler = DATA_SAMPLERS.build(dict(type="dynamicvis.SeededSampler", dataset=dataset, shuffle=True, seed=seed))
        sampler.set_epoch(number)
        return list(sampler)

    items = epoch(3)
    assert sorted(index for _, index in items) == list(range(6))
    assert items == epoch(3)
    np.random.seed(5)  # noqa: NPY002
    first = [dataset[item] for item in items]
    np.random.seed(6)  # noqa: NPY002
    for item, sample in reversed(list(zip(items, first, strict=True))):
        assert same(dataset[item], sample)
    for other in (epoch(4), epoch(3, seed=8)):
        by_index = {index: (seed, index) for seed, index in other}
        assert not all(same(dataset[by_index[index]], sample) for (_, index), sample in zip(items, first, strict=True))


def test_any_coco_boxes_can_be_trained_on(tmp_path, folder):
    """The same pipeline, sampler and wrapper on images and a COCO file."""
    shards = build(folder, []).shards
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for i in range(len(shards)):
        (tmp_path / "images" / f"{i}.png").write_bytes(shards.content(i))
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
        regions = shards.regions(i)
        for (left, top, right, bottom), label in zip(regions.boxes.tolist(), regions.labels.tolist(), strict=True):
            box = [left, top, right - left, bottom - top]
            identity = len(annotations) + 1
            entry = {"id": identity, "image_id": i, "category_id": label + 1, "bbox": box, "area": box[2] * box[3]}
            annotations.append(entry | {"iscrowd": 0})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    coco = dict(
        type="dynamicvis.CocoDataset",
        data_root=str(tmp_path),
        ann_file="boxes.json",
        data_prefix=dict(img="images/"),
        metainfo=dict(classes=tuple(CLASSES)),
        pipeline=TRAIN,
    )
    from_coco = DATASETS.build(dict(type="dynamicvis.SeededDataset", dataset=coco))
    inner = dict(type="dynamicvis.RegionShards", data_root=str(folder), pipeline=TRAIN)
    from_shards = DATASETS.build(dict(type="dynamicvis.SeededDataset", dataset=inner))
    for i in range(6):
        mine, theirs = from_coco[(i, i)], from_shards[(i, i)]
        assert same(mine, theirs)
        assert torch.equal(mine["data_samples"].gt_instances.labels, theirs["data_samples"].gt_instances.labels)


def test_a_missing_folder_names_the_way_out(tmp_path, folder):
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"train/meta\.json does not exist; it must hold the number of images"):
        build(folder, [])
