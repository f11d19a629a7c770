from __future__ import annotations

import json
from pathlib import Path

import detection_scenes as scenes
import pytest
from mmdet.registry import DATASETS
from mmengine.registry import DefaultScope
from tools_helpers import tool

from dynamicvis.data.raster import DataError


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    source = scenes.levir_ship(tmp_path / "release", {"train": 4, "val": 2, "test": 2})
    out = tmp_path / "levir-ship"
    assert tool("prepare_data")(["levir-ship", "--source", str(source), "--out", str(out)]) == 0
    return out


def build(root: Path, **settings: object) -> list[dict]:
    config = dict(
        type="dynamicvis.CocoDataset",
        data_root=str(root),
        ann_file="annotations/train.json",
        data_prefix=dict(img="images/"),
        metainfo=dict(classes=("ship",)),
        pipeline=[],
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        return DATASETS.build({**config, **settings})


def edit(root: Path, change) -> None:
    path = root / "annotations" / "train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_reads_what_was_prepared(prepared):
    dataset = build(prepared)
    assert len(dataset) == 4
    sample = dataset.get_data_info(0)
    assert Path(sample["img_path"]).is_file()
    assert sample["instances"][0]["bbox_label"] == 0
    assert len(build(prepared, filter_cfg=dict(filter_empty_gt=True))) == 3


def test_several_classes_keep_their_order(tmp_path):
    source = scenes.nwpu(tmp_path / "release", 12)
    assert tool("prepare_data")(["nwpu", "--source", str(source), "--out", str(tmp_path / "nwpu")]) == 0
    content = json.loads((tmp_path / "nwpu" / "annotations" / "train.json").read_text())
    classes = tuple(category["name"] for category in content["categories"])
    dataset = build(tmp_path / "nwpu", metainfo=dict(classes=classes))
    labels = [item["bbox_label"] + 1 for sample in dataset for item in sample["instances"]]
    assert labels == [item["category_id"] for item in content["annotations"]]
    some = build(tmp_path / "nwpu", metainfo=dict(classes=classes[1:4]))
    assert {item["bbox_label"] for sample in some for item in sample["instances"]} == {0, 1, 2}
    with pytest.raises(DataError, match=r"the config ship, airplane; metainfo.classes .* in its order"):
        build(tmp_path / "nwpu", metainfo=dict(classes=classes[1::-1]))


def test_a_missing_file_says_how_to_make_it(prepared):
    with pytest.raises(DataError, match=r"other.json does not exist; prepare .*`dynamicvis prepare`.*DYNAMICVIS_DATA"):
        build(prepared, ann_file="annotations/other.json")


def test_a_wrong_class_name_is_an_error(prepared):
    with pytest.raises(DataError, match=r"train.json has the classes ship, the config boat"):
        build(prepared, metainfo=dict(classes=("boat",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["annotations"][0].update(bbox=[50, 0, 40, 9]), r"the box \[50, 0, 40, 9\].*64 x 64"),
        (lambda content: content["annotations"][0].update(bbox=[-5, 0, 40, 9]), r"the box \[-5, 0, 40, 9\]"),
        (lambda content: content["annotations"][0].update(bbox=[5, 5, 0, 9]), r"the box \[5, 5, 0, 9\].*no area"),
        (lambda content: content["annotations"][0].update(image_id=77), "object 1 belongs to image 77"),
        (lambda content: content["annotations"][0].update(category_id=7), "object 1 has category 7"),
        (lambda content: content.pop("categories"), "has no 'categories'"),
        (lambda content: content.update(images=[], annotations=[]), "leaves no image: of its 0 images"),
    ],
)
def test_wrong_annotations_are_named(prepared, change, message):
    edit(prepared, change)
    with pytest.raises(DataError, match=message):
        build(prepared)


def test_a_split_without_objects_is_an_error_where_empty_images_are_left_out(prepared):
    edit(prepared, lambda content: content.update(annotations=[]))
    with pytest.raises(DataError, match=r"train.json leaves no image: of its 4 images none passes filter_cfg"):
        build(prepared, filter_cfg=dict(filter_empty_gt=True))


def test_a_file_cut_off_is_named(prepared):
    path = prepared / "annotations" / "train.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match=r"train.json cannot be read as JSON"):
        build(prepared)


def test_crowds_and_placeholders_reach_training_as_what_they_are(prepared, caplog):
    def change(content):
        for item in content["annotations"]:
            item.update(id=0, segmentation=[], area=None, image_id=str(item["image_id"]))
        content["annotations"][0].update(iscrowd=1)
        content["annotations"][1].update(ignore=1)

    plain = build(prepared)
    edit(prepared, change)
    path = prepared / "annotations" / "train.json"
    path.write_bytes(path.read_text().encode("utf-8-sig"))
    dataset = build(prepared)
    expected, actual = ([item for sample in data for item in sample["instances"]] for data in (plain, dataset))
    assert [item["bbox"] for item in actual] == [item["bbox"] for item in expected]
    assert [item["ignore_flag"] for item in actual] == [1, 1, *(0 for _ in actual[2:])]
    assert "mask" in actual[0]  # the outline of its box
    assert "mask" not in actual[2]


def test_masks_are_asked_for_where_there_are_none(prepared):
    pipeline = [dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True)]
    with pytest.raises(DataError, match=r"object 1 in .*png has no segmentation, and masks are asked for"):
        build(prepared, pipeline=pipeline)


def test_an_image_without_a_size_is_named(prepared):
    edit(prepared, lambda content: content["images"][0].pop("width"))
    with pytest.raises(DataError, match=r"image 1 \(.*\) has no width or height"):
        build(prepared)
