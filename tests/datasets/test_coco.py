"""COCO annotations as tools export them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import cv2
import detection_scenes as scenes
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from tools_helpers import tool

from dynamicvis.data.coco import bounds, check_outline, decode_mask, read_coco_file, run_lengths
from dynamicvis.data.raster import DataError
from dynamicvis.data.shards import RegionShards

SQUARE = [4, 4, 14, 4, 14, 14, 4, 14]


def content(**changes: Any) -> dict[str, Any]:
    """One image of 40 x 30 pixels with one ship; ``changes`` of the ship, of which ... takes one away."""
    ship = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [4, 4, 10, 10], "area": 90, "iscrowd": 0} | changes
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{name: value for name, value in ship.items() if value is not ...}],
        "categories": [{"id": 3, "name": "ship"}],
    }


def write(folder: Path, coco: Any) -> Path:
    path = folder / "c.json"
    path.write_text(json.dumps(coco))
    return path


@pytest.mark.parametrize("value", [..., None, [], [[]], [[], []], {}, [[], SQUARE], [SQUARE]])
@pytest.mark.parametrize("area", [..., None, 0, -1, float("nan"), "90", 90])
def test_a_placeholder_is_no_value(tmp_path: Path, value: Any, area: Any) -> None:
    (item,) = read_coco_file(write(tmp_path, content(segmentation=value, area=area))).objects
    assert item.box == (4, 4, 10, 10)
    assert item.segmentation == ([SQUARE] if isinstance(value, list) and SQUARE in value else None)
    assert item.area == (90 if area == 90 else None)


def mask_of(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((30, 40), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize("kind", ["list", "text"])
@pytest.mark.parametrize("box", [(4, 4, 14, 14), (0, 0, 40, 30), (3, 0, 5, 30), (7, 9, 8, 10), (2, 28, 30, 30)])
def test_run_lengths_of_both_kinds_give_mask_and_box(tmp_path: Path, kind: str, box: tuple[int, ...]) -> None:
    mask = mask_of(*box)
    encoded = coco_mask.encode(np.asfortranarray(mask))
    outline = {"size": [30, 40], "counts": encoded["counts"].decode()}
    if kind == "list":
        outline["counts"] = run_lengths(outline).tolist()
    left, top, right, bottom = box
    (item,) = read_coco_file(write(tmp_path, content(segmentation=outline, bbox=...))).objects
    assert item.segmentation == outline
    assert item.box == (left, top, right - left, bottom - top)
    np.testing.assert_array_equal(decode_mask(item.segmentation), mask)


def test_run_lengths_agree_with_pycocotools() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        shape = generator.integers(1, 40, 2)
        mask = (generator.random(shape) < generator.choice([0, 0.02, 0.5, 0.98, 1.0])).astype(np.uint8)
        encoded = coco_mask.encode(np.asfortranarray(mask))
        np.testing.assert_array_equal(decode_mask(encoded), mask)
        assert bounds(encoded) == tuple(coco_mask.toBbox(encoded))


@pytest.mark.parametrize("missing", [..., None, []])
def test_a_missing_box_is_that_of_the_polygons(tmp_path: Path, missing: Any) -> None:
    outline = [SQUARE, [20, 1, 25.5, 1, 20, 3]]
    (item,) = read_coco_file(write(tmp_path, content(bbox=missing, segmentation=outline))).objects
    assert item.box == (4, 1, 21.5, 13)


def test_ids_are_numbers_in_any_spelling_or_text(tmp_path: Path) -> None:
    coco = content(image_id="1", category_id=3.0, id=...)
    coco["categories"].append({"id": "90", "name": "harbour"})
    coco["annotations"] += [content(category_id=90)["annotations"][0]] * 2  # twice the same id
    found = read_coco_file(write(tmp_path, coco))
    assert found.categories == {3: "ship", 90: "harbour"}
    assert [(item.image_id, item.category_id) for item in found.objects] == [(1, 3), (1, 90), (1, 90)]
    coco = content(image_id="tile-007")
    coco["images"][0]["id"] = "tile-007"
    assert read_coco_file(write(tmp_path, coco)).objects[0].image_id == "tile-007"


@pytest.mark.parametrize("name", ["sub/a.png", "sub\\a.png", "./sub/a.png"])
def test_names_of_files_in_folders(tmp_path: Path, name: str) -> None:
    coco = content()
    coco["images"][0]["file_name"] = name
    assert read_coco_file(write(tmp_path, coco)).images[1].file_name == "sub/a.png"


@pytest.mark.parametrize(
    "name",
    ["../a.png", "..\\a.png", "sub\\..\\..\\a.png", "/a.png", "\\a.png", "C:\\a.png", "c:a.png", ".", " ", "a\0"],
)
def test_names_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    coco = content()
    coco["images"][0]["file_name"] = name
    with pytest.raises(DataError, match=r"c.json: image 1 (names the file .* outside its folder|has .* the name of a)"):
        read_coco_file(write(tmp_path, coco))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": ...}, "object 1 in a.png has neither 'bbox' nor 'segmentation'"),
        ({"bbox": [1, 2, 3]}, r"object 1 in a.png has the bbox \[1, 2, 3\]; it must be four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "four finite numbers"),
        ({"bbox": {"x": 1}}, "four finite numbers"),
        ({"segmentation": [[1, 1, 2, 2]]}, "a polygon needs at least three points"),
        ({"segmentation": [[1, 1, 2, 2, 3]]}, "a polygon needs at least three points"),
        ({"segmentation": [[*SQUARE[:-1], float("nan")]]}, "two finite numbers"),
        ({"segmentation": SQUARE}, "must be a list of polygons"),
        ({"segmentation": "none"}, "must be a list of polygons"),
        ({"segmentation": {"size": [30, 40], "counts": [0, 7]}}, "cover 7 pixels of a mask of 40 x 30"),
        ({"segmentation": {"size": [30, 40], "counts": [-1, 1201]}}, "whole numbers from 0 on"),
        ({"segmentation": {"size": [30, 40]}}, "whole numbers from 0 on, or compressed text"),
        ({"segmentation": {"size": [30], "counts": []}}, r"have the size \[30\]"),
        ({"segmentation": {"size": [30, 40], "counts": "o"}}, "run lengths are cut off"),
        ({"segmentation": {"size": [30, 40], "counts": "ä~"}}, "no compressed text"),
        ({"segmentation": {"size": [30, 40], "counts": "o" * 99}}, "no compressed text"),
        ({"iscrowd": 2}, "object 1 in a.png has iscrowd 2; it must be 0 or 1"),
        ({"ignore": "maybe"}, "has ignore 'maybe'"),
        ({"image_id": 7}, "object 1 belongs to image 7, which is not listed"),
        ({"image_id": 1.5}, r"object 1: its image has the id 1.5; an id is a whole number or text"),
        ({"image_id": ...}, "its image has the id None"),
        ({"category_id": float("nan")}, "its category has the id nan"),
        ({"category_id": [3]}, r"its category has the id \[3\]"),
        ({"id": ..., "bbox": ...}, "object 1 in a.png has neither"),
    ],
)
def test_what_breaks_a_rule_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"c.json: .*{message}"):
        read_coco_file(write(tmp_path, content(**change)))


@pytest.mark.parametrize(
    ("part", "entries", "message"),
    [
        ("images", [{"id": 1, "file_name": "a.png", "width": 0}], "image 1 has width 0; it must be a whole number"),
        ("images", [{"id": 1, "file_name": "a.png"}, {"id": "1", "file_name": "b.png"}], "image 1 is listed twice"),
        ("images", [{"id": 1, "file_name": "a.png"}, {"id": "x", "file_name": "b.png"}], "some ids of the images are"),
        ("images", [{"file_name": "a.png"}], "an image has the id None"),
        ("images", {"1": "a.png"}, r"has no 'images', a list of entries"),
        ("images", ["a.png"], r"has no 'images', a list of entries"),
        ("annotations", None, r"has no 'annotations', a list of entries"),
        ("categories", [{"id": 3}], "category 3 has no 'name'"),
        ("categories", [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], "category 3 is listed twice"),
    ],
)
def test_entries_that_break_a_rule_are_named(tmp_path: Path, part: str, entries: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_coco_file(write(tmp_path, content() | {part: entries}))
    with pytest.raises(DataError, match="so that it is no COCO annotation file"):
        read_coco_file(write(tmp_path, [content()]))


def test_any_change_is_read_or_named(tmp_path: Path) -> None:
    generator = random.Random(0)
    values = [None, True, -1, 0, 1.5, 1e999, 10**400, 2**63, "", "7", "é\0", "../x", [], [[]], [[1]], {}]
    mask = {"size": [30, 40], "counts": "0" * 5}
    outcomes = set()
    for _ in range(800):
        coco = content(segmentation=generator.choice([[SQUARE], mask, {"size": [30, 40], "counts": [0, 1200]}]))
        place: Any = coco
        while isinstance(place, dict | list) and place:
            key = generator.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if generator.random() < 0.4 or not isinstance(place[key], dict | list):
                place[key] = generator.choice(values)
                break
            place = place[key]
        try:
            read_coco_file(write(tmp_path, coco))
            outcomes.add("read")
        except DataError as error:
            assert "c.json" in str(error)  # noqa: PT017 - either outcome is right
            outcomes.add("named")
    assert outcomes == {"read", "named"}


@pytest.fixture
def harbour(tmp_path: Path) -> Path:
    """Twenty images, each with a ship, a crowd without an outline, and a region marked to be ignored."""
    (tmp_path / "images").mkdir()
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "ship"}]}
    for number in range(20):
        assert cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.full((30, 40, 3), number, np.uint8))
        coco["images"].append({"id": number, "file_name": f"{number}.png"})
        for changes in (
            {"segmentation": [SQUARE]},
            {"iscrowd": 1, "bbox": [0, 0, 40, 30], "segmentation": None},
            {"ignore": 1, "segmentation": {"size": [30, 40], "counts": [0, 1200]}},
        ):
            coco["annotations"] += content(image_id=number, id=0, **changes)["annotations"]
    write(tmp_path, coco)
    return tmp_path


def prepare(*arguments: str | Path) -> int:
    return tool("prepare_data")([str(argument) for argument in arguments])


def test_crowds_are_left_out_of_shards(harbour: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = harbour / "shards"
    assert prepare("shards", "--source", harbour / "images", "--annotations", harbour / "c.json", "--out", out) == 0
    assert "20 images with 20 regions in 1 shards and 40 crowd regions left out" in capsys.readouterr().out
    shards = RegionShards(out)
    assert {tuple(map(tuple, shards.regions(index).boxes.tolist())) for index in range(20)} == {((4, 4, 14, 14),)}


def test_crowds_stay_crowds_in_prepared_annotations(harbour: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = harbour / "ssdd"
    assert prepare("ssdd", "--source", harbour / "images", "--annotations", harbour / "c.json", "--out", out) == 0
    assert "test 4 images with 4 objects and 8 crowd regions to be ignored" in capsys.readouterr().out
    written = json.loads((out / "annotations" / "trainval.json").read_text())["annotations"]
    assert len([item for item in written if not item["iscrowd"]]) == 16
    crowds = [item for item in written if item["iscrowd"]]
    assert len(crowds) == 32
    assert all(item["segmentation"] for item in crowds)


def test_an_image_listed_twice_is_named(harbour: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = json.loads((harbour / "c.json").read_text())
    coco["images"][7]["file_name"] = ".\\3.png"
    path, out = write(harbour, coco), harbour / "out"
    assert prepare("shards", "--source", harbour / "images", "--annotations", path, "--out", out) == 1
    assert "3.png is listed as image 3 and 7" in capsys.readouterr().err


def test_categories_of_one_name_are_one_class_and_gaps_are_no_matter(harbour: Path) -> None:
    coco = json.loads((harbour / "c.json").read_text())
    coco["categories"] = [{"id": 90, "name": "port"}, {"id": 3, "name": "ship"}, {"id": 7, "name": "port"}]
    for item in coco["annotations"][:9]:
        item["category_id"] = 7
    path, out = write(harbour, coco), harbour / "out"
    assert prepare("shards", "--source", harbour / "images", "--annotations", path, "--out", out) == 0
    shards = RegionShards(out)
    assert shards.classes == ("port", "ship")
    assert sum(int(shards.regions(index).labels[0] == 0) for index in range(20)) == 3


def test_ships_marked_difficult_are_to_be_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = scenes.ssdd(tmp_path / "release", train=12, test=3)
    path = source / "PSeg_SSDD" / "voc_style" / "Annotations_train" / "000002.xml"
    path.write_text(path.read_text().replace("<name>", "<difficult>1</difficult><name>", 1))
    assert prepare("ssdd", "--source", source, "--out", tmp_path / "out") == 0
    assert "and 1 crowd regions to be ignored" in capsys.readouterr().out
    items = json.loads((tmp_path / "out" / "annotations" / "trainval.json").read_text())["annotations"]
    assert sum(item["iscrowd"] for item in items) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"segmentation": {"size": [20, 40], "counts": [800]}},
            "its mask has the size .20, 40. .*, its image .30,",
        ),
        ({"segmentation": {"size": [2.5, 4], "counts": [2, 8]}}, "have the size .2.5, 4."),
        ({"segmentation": {"size": [2**61, 8], "counts": [2**61] * 8}}, "have the size"),
    ],
)
def test_run_lengths_are_those_of_the_image(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_coco_file(write(tmp_path, content(**changes)))


def test_run_lengths_without_a_pixel_are_no_outline(tmp_path: Path) -> None:
    (item,) = read_coco_file(write(tmp_path, content(segmentation={"size": [30, 40], "counts": [1200]}))).objects
    assert (item.box, item.segmentation) == ((4, 4, 10, 10), None)


@pytest.mark.parametrize("name", ["b" * 300 + ".png", "c" * 300 + "/a.png", "\ud800.png"])
def test_names_that_no_file_has_are_refused(tmp_path: Path, name: str) -> None:
    wrong = content()
    wrong["images"][0]["file_name"] = name
    with pytest.raises(DataError, match="as no file can be called"):
        read_coco_file(write(tmp_path, wrong))


def test_an_image_is_listed_once(tmp_path: Path) -> None:
    wrong = content()
    wrong["images"].append(wrong["images"][0] | {"id": 2, "file_name": "./a.png"})
    with pytest.raises(DataError, match=r"a\.png is listed as image 1 and 2"):
        read_coco_file(write(tmp_path, wrong))


@pytest.mark.parametrize("outline", [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4], [80, 8, 280, 80, 280, 280]])
def test_an_outline_in_other_units_than_its_box_is_refused(tmp_path: Path, outline: list[float]) -> None:
    (item,) = read_coco_file(write(tmp_path, content(segmentation=[outline]))).objects
    with pytest.raises(DataError, match="its segmentation lies elsewhere than its bbox"):
        check_outline(item)
    (item,) = read_coco_file(write(tmp_path, content(segmentation=[SQUARE]))).objects
    check_outline(item)
