"""Shards from fMoW's own layout, from COCO, and mosaics of scenes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tools_helpers import tool

from dynamicvis.data.fmow import FMOW_CLASSES
from dynamicvis.data.shards import RegionShards


def prepare(*arguments: str | Path) -> int:
    return tool("prepare_data")([str(argument) for argument in arguments])


def place(folder: Path, split: str, category: str, number: int, boxes: list[dict[str, Any]], kind: str = "rgb") -> Path:
    path = folder / split / category / f"{category}_{number}" / f"{category}_{number}_0_{kind}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((40, 60, 3), 20 * number, np.uint8))
    content = {"gsd": 0.5, "img_width": 60, "img_height": 40, "bounding_boxes": boxes}
    path.with_suffix(".json").write_text(json.dumps(content))
    return path


@pytest.fixture
def fmow(tmp_path: Path) -> Path:
    """Five images in the layout of fMoW-rgb."""
    source = tmp_path / "fMoW-rgb"
    for number, category in enumerate(("zoo", "barn", "airport")):
        place(source, "train", category, number, [{"ID": 0, "category": category, "box": [5, 6, 20, 30]}])
    two = [{"category": "barn", "box": [0, 0, 10, 9.5]}, {"category": "false_detection", "box": [30, 10, 31, 30]}]
    place(source, "train", "barn", 4, two, "msrgb")
    place(source, "val", "zoo", 3, [{"category": "zoo", "box": [1, 2, 3, 4]}])
    return source


def test_fmow_becomes_shards(fmow, tmp_path, capsys):
    out = tmp_path / "fmow"
    assert prepare("fmow", "--source", fmow, "--out", out, "--samples", "3") == 0
    assert "train 4 images with 5 regions in 2 shards, val 1 images" in capsys.readouterr().out
    meta = json.loads((out / "train" / "meta.json").read_text())
    assert (meta["num_samples"], meta["num_shards"], meta["num_regions"]) == (4, 2, 5)
    shards = RegionShards(out / "train")
    assert shards.classes == FMOW_CLASSES
    found = {shards.name(i).split(".tar/")[1]: i for i in range(4)}
    assert "barn/barn_4/barn_4_0_msrgb.jpg" in found
    index = found["barn/barn_4/barn_4_0_msrgb.jpg"]
    regions = shards.regions(index)
    # A box may reach one pixel over the border; it is then clipped.
    assert regions.boxes.tolist() == [[0, 0, 10, 9.5], [30, 10, 60, 40]]
    assert [FMOW_CLASSES[label] for label in regions.labels] == ["barn", "false_detection"]
    source = fmow / "train" / "barn/barn_4/barn_4_0_msrgb.jpg"
    assert shards.content(index) == source.read_bytes()
    assert len(RegionShards(out / "val")) == 1


def test_equal_inputs_give_equal_shards(fmow, tmp_path):
    for name in "ab":
        prepare("fmow", "--source", fmow, "--out", tmp_path / name)
    assert (tmp_path / "a/train/00000.tar").read_bytes() == (tmp_path / "b/train/00000.tar").read_bytes()


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            [{"category": "harbour", "box": [1, 2, 3, 4]}],
            "zoo_7_0_rgb.json: the category 'harbour' is no class of fMoW",
        ),
        ([{"category": "zoo", "box": [1, 2, 0, 4]}], "zoo_7_0_rgb.json: the box (1, 2, 1, 6) has no area"),
        ([{"category": "zoo", "box": [50, 2, 20, 4]}], "lies outside its image of 60 x 40 pixels"),
        ([{"category": "zoo", "box": [50, 2, 20]}], "zoo_7_0_rgb.json has no 'bounding_boxes' with"),
        ([{"box": [50, 2, 20, 3]}], "zoo_7_0_rgb.json has no 'bounding_boxes' with"),
    ],
)
def test_bad_regions_of_fmow_are_named(fmow, tmp_path, capsys, boxes, message):
    place(fmow, "train", "zoo", 7, boxes)
    assert prepare("fmow", "--source", fmow, "--out", tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_boxes_are_dropped_and_counted_by_option(fmow, tmp_path, capsys):
    place(fmow, "train", "zoo", 7, [{"category": "zoo", "box": [1, 2, 0, 4]}, {"category": "zoo", "box": [1, 2, 3, 4]}])
    place(fmow, "train", "zoo", 8, [{"category": "zoo", "box": [100, 2, 5, 4]}])
    assert prepare("fmow", "--source", fmow, "--out", tmp_path / "out", "--bad-boxes", "drop") == 0
    out = capsys.readouterr().out
    assert "train 5 images with 6 regions in 1 shards; 1 without a region left out" in out
    assert "2 bad boxes dropped, such as" in out


def test_missing_and_damaged_files_of_fmow_are_named(fmow, tmp_path, capsys):
    path = fmow / "val/zoo/zoo_3/zoo_3_0_rgb.jpg"
    for change, message in (
        (lambda: path.with_suffix(".json").unlink(), "zoo_3_0_rgb.json does not exist"),
        (lambda: path.write_bytes(b"no image"), "zoo_3_0_rgb.jpg cannot be read as an image"),
        (path.unlink, "val has no image CLASS/CLASS_N/CLASS_N_K_rgb.jpg"),
    ):
        change()
        assert prepare("fmow", "--source", fmow, "--out", tmp_path / "out") == 1
        assert message in capsys.readouterr().err
    assert prepare("fmow", "--source", fmow, "--out", tmp_path / "out", "--splits", "train", "test_gt") == 1
    assert "has no folder 'test_gt'" in capsys.readouterr().err


def coco(folder: Path, **changes: Any) -> tuple[Path, Path]:
    images = folder / "images"
    (images / "sub.dir").mkdir(parents=True)
    for name in ("a.png", "sub.dir/b.c.png", "empty.png"):
        assert cv2.imwrite(str(images / name), np.full((40, 60, 3), 9, np.uint8))
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 60, "height": 40}
            for i, name in enumerate(("a.png", "sub.dir/b.c.png", "empty.png"))
        ],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 7, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [5, 5, 8, 8], "area": 64, "iscrowd": 0},
        ],
        "categories": [{"id": 7, "name": "wind_farm"}, {"id": 3, "name": "zoo"}],
    } | changes
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path, images


def test_coco_becomes_shards(tmp_path, capsys):
    path, images = coco(tmp_path)
    assert prepare("shards", "--annotations", path, "--source", images, "--out", tmp_path / "out") == 0
    assert "2 images with 2 regions in 1 shards; 1 without a region left out" in capsys.readouterr().out
    shards = RegionShards(tmp_path / "out")
    assert shards.classes == ("wind_farm", "zoo")
    found = {shards.name(i).split(".tar/")[1]: shards.regions(i) for i in range(2)}
    assert found["a.png"].boxes.tolist() == [[1, 2, 11, 22]]
    assert found["sub.dir/b_c.png"].labels.tolist() == [1]
    assert prepare("shards", "--annotations", path, "--source", images, "--out", tmp_path / "out") == 1
    assert "exists already" in capsys.readouterr().err


def test_bad_coco_is_named(tmp_path, capsys):
    outside = [{"id": 5, "image_id": 0, "category_id": 7, "bbox": [1, 2, 100, 20]}]
    path, images = coco(tmp_path, annotations=outside)
    arguments = ["shards", "--annotations", path, "--source", images, "--out", tmp_path / "out"]
    assert prepare(*arguments) == 1
    assert "annotations.json: object 5 in a.png: the box (1, 2, 101, 22) lies outside" in capsys.readouterr().err
    path.write_text('{"images": []}')
    assert prepare(*arguments) == 1
    assert "annotations.json has no 'categories'" in capsys.readouterr().err
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    assert prepare(*arguments) == 1
    assert "none of the 0 images has a region" in capsys.readouterr().err


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three classes of twenty scenes, a grey a scene."""
    for label, name in enumerate(("beach", "forest", "runway")):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        for i in range(20):
            image = np.full((30, 32, 3), 80 * label + 2 * i, np.uint8)
            assert cv2.imwrite(str(tmp_path / "scenes" / name / f"{i}.png"), image)
    return tmp_path / "scenes"


def test_mosaics_hold_every_scene_in_one_split(scenes, tmp_path):
    out = tmp_path / "out"
    assert prepare("mosaics", "--source", scenes, "--out", out, "--tile", "16", "--repeats", "2") == 0
    greys: dict[str, Counter] = {}
    for split, count in (("train", 6), ("val", 1), ("test", 1)):
        shards = RegionShards(out / split)
        assert len(shards) == count
        greys[split] = Counter()
        for i in range(count):
            image, regions = shards.image(i), shards.regions(i)
            assert image.shape == (64, 64, 3)
            for (left, top, right, bottom), label in zip(regions.boxes.astype(int), regions.labels, strict=True):
                tile = image[top:bottom, left:right]
                assert tile.shape == (16, 16, 3)
                assert (tile == tile[0, 0, 0]).all()
                assert tile[0, 0, 0] // 80 == label
                greys[split][int(tile[0, 0, 0])] += 1
    assert {split: len(found) for split, found in greys.items()} == {"train": 42, "val": 9, "test": 9}
    assert len(greys["train"].keys() | greys["val"].keys() | greys["test"].keys()) == 60
    assert set(greys["train"].values()) == {2}
    assert set(greys["val"].values()) == {1}


def test_bad_scenes_are_named(scenes, tmp_path, capsys):
    (scenes / "forest" / "3.png").write_bytes(b"no image")
    assert prepare("mosaics", "--source", scenes, "--out", tmp_path / "out") == 1
    assert "forest/3.png cannot be read as an image" in capsys.readouterr().err
    assert prepare("mosaics", "--source", scenes / "forest", "--out", tmp_path / "out") == 1
    assert "forest has 0 folders; it needs one a class" in capsys.readouterr().err
