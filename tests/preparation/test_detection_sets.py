from __future__ import annotations

import json
from pathlib import Path

import cv2
import detection_scenes as scenes
import numpy as np
import pytest
import rasterio
from pycocotools import mask as coco_mask
from tools_helpers import tool

from dynamicvis.data.preparation import detection, sen2ships
from dynamicvis.data.preparation.detection import images_with_labels
from dynamicvis.data.preparation.folder import DataSourceError
from dynamicvis.data.preparation.neon_trees import read_voc_boxes
from dynamicvis.geo.stitching.grid import Extent


def prepare(*arguments: object) -> int:
    return tool("prepare_data")([str(argument) for argument in arguments])


def read(out: Path, split: str) -> dict[str, list[dict]]:
    return json.loads((out / "annotations" / f"{split}.json").read_text())


def names(out: Path, split: str) -> set[str]:
    return {image["file_name"] for image in read(out, split)["images"]}


def assert_objects_are_bright(out: Path, split: str, tolerance: int = 0) -> None:
    """Every box and mask lies on a rectangle that was drawn, and is no smaller."""
    content = read(out, split)
    images = {image["id"]: image for image in content["images"]}
    assert content["annotations"]
    for item in content["annotations"]:
        entry = images[item["image_id"]]
        picture = cv2.imread(str(out / "images" / entry["file_name"]))[..., 0]
        assert picture.shape == (entry["height"], entry["width"])
        left, top, width, height = (round(value) for value in item["bbox"])
        assert picture[top : top + height, left : left + width].min() > 130 - tolerance
        assert picture[max(top - 2, 0), left] < 130
        assert picture[top, max(left - 2, 0)] < 130
        assert (item["bbox"][2], item["bbox"][3]) == pytest.approx((width, height), abs=1e-3)
        if "segmentation" in item:
            runs = coco_mask.merge(coco_mask.frPyObjects(item["segmentation"], *picture.shape))
            assert coco_mask.area(runs) == pytest.approx(item["area"])
            assert coco_mask.toBbox(runs).tolist() == pytest.approx(item["bbox"])


def test_levir_ship_keeps_the_split_of_its_authors(tmp_path, capsys):
    source = scenes.levir_ship(tmp_path / "release", {"train": 4, "val": 2, "test": 3})
    out = tmp_path / "levir-ship"
    assert prepare("levir-ship", "--source", source, "--out", out) == 0
    assert "train 4 images with 4 objects, val 2 images with 3 objects" in capsys.readouterr().out
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        assert names(out, split) == {f"{split}/img_{index}.png" for index in range(count)}
        assert_objects_are_bright(out, split)
    # Images without ships stay, since they teach what is none.
    content = read(out, "train")
    assert len({item["image_id"] for item in content["annotations"]}) < len(content["images"])
    assert [category["name"] for category in content["categories"]] == ["ship"]


def test_images_are_linked_or_copied(tmp_path, monkeypatch):
    source = scenes.levir_ship(tmp_path / "release", {"train": 2, "val": 2, "test": 2})
    original = source / "train" / "images" / "img_0.png"
    assert prepare("levir-ship", "--source", source, "--out", tmp_path / "linked") == 0
    assert (tmp_path / "linked" / "images" / "train" / "img_0.png").samefile(original)

    def refuse(*_: object) -> None:
        raise OSError("other file system")

    monkeypatch.setattr(detection.os, "link", refuse)
    assert prepare("levir-ship", "--source", source, "--out", tmp_path / "copied") == 0
    copied = tmp_path / "copied" / "images" / "train" / "img_0.png"
    assert not copied.samefile(original)
    assert copied.read_bytes() == original.read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.1 0.1", "img_0.txt, line 1: '1 0.5 0.5 0.1 0.1' is not '0 x y width height'"),
        ("0 0.5 0.5 0.1", "line 1: '0 0.5 0.5 0.1' is not"),
        ("0 0.5 x 0.1 0.1", "line 1: '0 0.5 x 0.1 0.1' is not"),
        ("0 0.95 0.5 0.4 0.1", "the box (48, 28.8, 73.6, 35.2) lies outside its image of 64 x 64 pixels"),
        ("0 0.5 0.5 0 0.1", "has no area"),
        ("0 nan 0.5 0.1 0.1", "has no area"),
    ],
)
def test_a_wrong_label_is_named(tmp_path, capsys, line, message):
    source = scenes.levir_ship(tmp_path / "release", {"train": 2, "val": 2, "test": 2})
    (source / "train" / "labels" / "img_0.txt").write_text(line + "\n")
    assert prepare("levir-ship", "--source", source, "--out", tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_box_slightly_over_the_border_is_clipped(tmp_path):
    source = scenes.levir_ship(tmp_path / "release", {"train": 2, "val": 2, "test": 2})
    (source / "train" / "labels" / "img_0.txt").write_text("0 0.96 0.5 0.1 0.1\n")
    assert prepare("levir-ship", "--source", source, "--out", tmp_path / "out") == 0
    left, _, width, _ = read(tmp_path / "out", "train")["annotations"][0]["bbox"]
    assert left + width == 64


@pytest.mark.parametrize("missing", ["train/labels/img_1.txt", "val/images", "train/images/img_0.png"])
def test_missing_and_damaged_files_are_named(tmp_path, capsys, missing):
    source = scenes.levir_ship(tmp_path / "release", {"train": 2, "val": 2, "test": 2})
    if missing.endswith("png"):
        (source / missing).write_bytes(b"no image")
    else:
        (source / missing).rename(source / "elsewhere")
    assert prepare("levir-ship", "--source", source, "--out", tmp_path / "out") == 1
    assert missing in capsys.readouterr().err


def test_an_empty_split_is_an_error(tmp_path, capsys):
    source = scenes.levir_ship(tmp_path / "release", {"train": 2, "val": 2, "test": 0})
    assert prepare("levir-ship", "--source", source, "--out", tmp_path / "out") == 1
    assert "split 'test' has 0 images and no object" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["", "PSeg_SSDD", "PSeg_SSDD/voc_style"])
def test_ssdd_keeps_the_official_test_split_and_holds_validation_out_of_training(tmp_path, folder):
    source = scenes.ssdd(tmp_path / "Official-SSDD-OPEN", train=12, test=3)
    out = tmp_path / "ssdd"
    assert prepare("ssdd", "--source", source / folder, "--out", out) == 0
    train, val, both, test = (names(out, split) for split in ("train", "val", "trainval", "test"))
    assert (len(train), len(val)) == (11, 1)
    assert train | val == both == {f"{number:06d}.jpg" for number in range(1, 13)}
    assert test == {f"{number:06d}.jpg" for number in range(13, 16)}
    assert_objects_are_bright(out, "trainval", tolerance=40)  # JPEG


def test_ssdd_without_a_division_is_divided_by_seed(tmp_path):
    images, annotations = scenes.ssdd_coco(tmp_path / "release", 20)
    divisions = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = ("--source", images, "--annotations", annotations, "--seed", seed, "--out", tmp_path / name)
        assert prepare("ssdd", *options) == 0
        divisions.append({split: names(tmp_path / name, split) for split in ("train", "val", "test")})
        assert {split: len(files) for split, files in divisions[-1].items()} == {"train": 14, "val": 2, "test": 4}
        assert len(set.union(*divisions[-1].values())) == 20
    assert divisions[0] == divisions[1] != divisions[2]
    assert_objects_are_bright(tmp_path / "a", "test", tolerance=40)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>ship</name>", "<name>boat</name>", "object 1 has the class 'boat', which is none of ship"),
        ("<segm>", "<nothing>", "cannot be read as XML"),
        ("segm>", "other>", "object 1 has no outline (segm)"),
        ("<xmin>", "<xmin>-9", "lies outside its image of 64 x 64 pixels"),
        ("<xmin>", "<xmin>x", "not numbers"),
    ],
)
def test_a_wrong_object_of_ssdd_is_named(tmp_path, capsys, old, new, message):
    source = scenes.ssdd(tmp_path / "release", train=4, test=2)
    path = source / "PSeg_SSDD" / "voc_style" / "Annotations_train" / "000002.xml"
    path.write_text(path.read_text().replace(old, new))
    assert prepare("ssdd", "--source", source, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "000002.xml" in error


def test_ssdd_says_what_the_source_should_be(tmp_path, capsys):
    assert prepare("ssdd", "--source", tmp_path, "--out", tmp_path / "out") == 1
    assert "--annotations" in capsys.readouterr().err


def test_nwpu_takes_masks_by_class_name(tmp_path):
    source = scenes.nwpu(tmp_path / "NWPU VHR-10 dataset", 20)
    out = tmp_path / "nwpu"
    assert prepare("nwpu", "--source", source, "--out", out) == 0
    sizes = {split: len(names(out, split)) for split in ("train", "val", "trainval", "test")}
    assert sizes == {"train": 14, "val": 2, "trainval": 16, "test": 4}
    content = read(out, "trainval")
    assert [category["name"] for category in content["categories"]][2] == "storage tank"
    assert {item["category_id"] for item in content["annotations"]} == set(range(1, 11))
    assert_objects_are_bright(out, "test", tolerance=40)
    assert names(out, "trainval") & names(out, "test") == set()


def test_nwpu_boxes_agree_with_the_masks(tmp_path):
    source = scenes.nwpu(tmp_path / "release", 20)
    assert prepare("nwpu", "--source", source, "--out", tmp_path / "masks") == 0
    (source / "annotations.json").unlink()
    assert prepare("nwpu", "--source", source, "--out", tmp_path / "boxes", "--boxes") == 0
    for split in ("train", "test"):
        expected = read(tmp_path / "masks", split)
        for item in expected["annotations"]:
            assert item.pop("segmentation")
        assert read(tmp_path / "boxes", split) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(1,2),(20,30),11", "class 11 is none of 1 (airplane) to 10 (vehicle)"),
        ("(1,2),(20,30)", "'(1,2),(20,30)' is not '(x1,y1),(x2,y2),class'"),
        ("(1,2),(20,300),3", "the box (1, 2, 20, 300) lies outside its image of 64 x 64 pixels"),
        ("(20,2),(1,30),3", "the box (20, 2, 1, 30) has no area"),
    ],
)
def test_a_wrong_line_of_nwpu_is_named(tmp_path, capsys, line, message):
    source = scenes.nwpu(tmp_path / "release", 10)
    (source / "ground truth" / "003.txt").write_text(f"( 1, 2),( 20,30), 4\n{line}\n")
    assert prepare("nwpu", "--source", source, "--out", tmp_path / "out", "--boxes") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "003.txt, line 2" in error


@pytest.mark.parametrize("missing", ["annotations.json", "positive image set", "positive image set/004.jpg"])
def test_nwpu_names_what_is_missing(tmp_path, capsys, missing):
    source = scenes.nwpu(tmp_path / "release", 10)
    (source / missing).rename(source / "elsewhere")
    assert prepare("nwpu", "--source", source, "--out", tmp_path / "out") == 1
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda coco: coco["categories"][0].update(name="plane"), "has the class 'plane', which is none of airplane"),
        (lambda coco: coco["annotations"][0].update(image_id=99), "belongs to image 99"),
        (lambda coco: coco["annotations"][0].update(category_id=12), "has the class 'number 12'"),
        (
            lambda coco: coco["annotations"][0].update(bbox=[50, 0, 40, 9]),
            "object 0 in 001.jpg: the box (50, 0, 90, 9)",
        ),
        (lambda coco: coco["annotations"][0].update(segmentation=[[1, 1, 2, 2]]), "needs at least three points"),
        (lambda coco: coco["annotations"][0].pop("segmentation"), "an object in 001.jpg has no segmentation"),
        (lambda coco: coco["annotations"][0].update(segmentation={"size": [9, 9], "counts": [81]}), "[64, 64]"),
        (lambda coco: coco["images"][0].update(width=65), "001.jpg is 64 x 64 pixels, but 65 x 64 in"),
        (lambda coco: coco.pop("images"), "is no COCO annotation file"),
    ],
)
def test_wrong_coco_annotations_are_named(tmp_path, capsys, change, message):
    source = scenes.nwpu(tmp_path / "release", 10)
    path = source / "annotations.json"
    coco = json.loads(path.read_text())
    change(coco)
    path.write_text(json.dumps(coco))
    assert prepare("nwpu", "--source", source, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "annotations.json" in error


def test_annotations_that_are_cut_off_are_named(tmp_path, capsys):
    source = scenes.nwpu(tmp_path / "release", 10)
    path = source / "annotations.json"
    path.write_text(path.read_text()[:100])
    assert prepare("nwpu", "--source", source, "--out", tmp_path / "out") == 1
    assert "annotations.json cannot be read as JSON" in capsys.readouterr().err


@pytest.fixture
def ships(tmp_path: Path) -> Path:
    """sen2ships in tiles of 48 with overlap 16."""
    source = scenes.sen2ships(tmp_path / "release")
    out = tmp_path / "sen2ships"
    assert prepare("sen2ships", "--source", source, "--out", out, "--tile", 48, "--overlap", 16) == 0
    return out


def test_sen2ships_is_split_by_place(ships):
    for split, places in sen2ships.PLACES.items():
        assert {name.split("_")[0] for name in names(ships, split)} == set(places)
        # Three by two tiles: 96 x 80 pixels in steps of at most 32.
        assert len(names(ships, split)) == 6 * len(places)


def test_tiles_are_windows_of_their_scene_with_its_values_and_its_place_on_earth(ships):
    covered = np.zeros((80, 96), bool)
    with rasterio.open(ships.parent / "release" / "durban.tif") as scene:
        for name in names(ships, "test"):
            if not name.startswith("durban"):
                continue
            left, top = map(int, Path(name).stem.split("_")[1:])
            with rasterio.open(ships / "images" / name) as tile:
                assert tile.descriptions == ("B02", "B03", "B04", "B08")
                assert (tile.dtypes[0], tile.crs) == ("uint16", scene.crs)
                assert tile.xy(0, 0) == scene.xy(top, left)
                window = np.s_[top : top + tile.height, left : left + tile.width]
                np.testing.assert_array_equal(tile.read(), scene.read([1, 2, 3, 4])[:, *window])
            covered[window] = True
    assert covered.all()


def test_ships_of_a_tile_are_where_they_are_in_the_scene(ships):
    content = read(ships, "train")
    images = {image["id"]: image["file_name"] for image in content["images"]}
    cut = 0
    for item in content["annotations"]:
        with rasterio.open(ships / "images" / images[item["image_id"]]) as tile:
            bright = tile.read(1) > 2000
        mask = coco_mask.decode(coco_mask.frPyObjects(item["segmentation"], *bright.shape)).astype(bool)
        assert mask.sum() == item["area"]
        assert bright[mask].all()
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert item["bbox"] == box
        cut += 48 in (box[0] + box[2], box[1] + box[3]) or 0 in box[:2]
    assert cut


def test_less_than_the_visible_share_of_a_ship_is_dropped():
    mask = np.zeros((20, 100), bool)
    mask[2:12, 10:20] = True
    encoding = sen2ships.encode_mask(mask)
    scene = detection.AnnotatedImage(Path("x"), "x", 100, 20, (detection.Instance((10, 2, 20, 12), 0, encoding),))
    assert [item.box for item in sen2ships.cut_instances(scene, Extent(16, 0, 64, 20))] == [(0, 2, 4, 12)]
    assert sen2ships.cut_instances(scene, Extent(17, 0, 64, 20)) == ()


@pytest.mark.parametrize("first", [False, True])
def test_run_lengths_are_those_of_coco(first):
    mask = np.random.default_rng(0).random((7, 5)) < 0.5
    mask[0, 0] = first
    encoding = sen2ships.encode_mask(mask)
    np.testing.assert_array_equal(coco_mask.decode(coco_mask.frPyObjects(encoding, 7, 5)), mask)
    np.testing.assert_array_equal(sen2ships.decode_mask(encoding), mask)


@pytest.mark.parametrize("empty", [False, True])
def test_run_lengths_of_uniform_masks(empty):
    mask = np.full((3, 4), not empty)
    np.testing.assert_array_equal(sen2ships.decode_mask(sen2ships.encode_mask(mask)), mask)


def test_sen2ships_names_what_is_wrong(tmp_path, capsys):
    source = scenes.sen2ships(tmp_path / "release")
    options = ("--source", source, "--out", tmp_path / "out")
    assert prepare("sen2ships", *options, "--overlap", 256) == 1
    assert "--overlap 256" in capsys.readouterr().err
    with rasterio.open(source / "klang.tif", "r+") as file:
        file.set_band_description(4, "nir")
    assert prepare("sen2ships", *options) == 1
    assert "klang.tif has no band described as B08" in capsys.readouterr().err
    coco = json.loads((source / "annotations.json").read_text())
    number = next(image["id"] for image in coco["images"] if image["file_name"] == "algiers.tif")
    coco["images"] = [image for image in coco["images"] if image["id"] != number]
    coco["annotations"] = [item for item in coco["annotations"] if item["image_id"] != number]
    (source / "annotations.json").write_text(json.dumps(coco))
    assert prepare("sen2ships", *options) == 1
    assert "lists no scene of algiers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_random_part_depends_on_names_and_seed_alone():
    images = [detection.AnnotatedImage(Path(name), name, 1, 1, ()) for name in "abcdefghij"]
    rest, part = detection.split_by_seed(images, 0.3, 0)
    assert [image.name for image in rest + part] != sorted(image.name for image in images)
    assert (rest, part) == detection.split_by_seed(images[::-1], 0.3, 0)
    assert sorted(image.name for image in rest + part) == list("abcdefghij")
    assert len(part) == 3


def test_a_box_is_checked_against_its_image():
    assert detection.checked_box((-1, -2, 9, 12), 10, 10, "f") == (0, 0, 9, 10)
    for box in [(-2.5, 0, 5, 5), (0, 0, 12.5, 5), (10, 2, 11, 5), (3, 3, 3, 5), (float("nan"), 0, 5, 5)]:
        with pytest.raises(DataSourceError, match="f: the box"):
            detection.checked_box(box, 10, 10, "f")


@pytest.mark.parametrize("name", ["../a.png", "deeper/../../a.png", "/etc/a.png", "", 7])
def test_images_outside_the_folder_are_refused(tmp_path, name):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    content = {"images": [{"id": 1, "file_name": name, "width": 8, "height": 8}], "annotations": [], "categories": []}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataSourceError, match=r"outside its folder|name of a file is to be"):
        detection.read_coco(path, tmp_path / "images", ["tree"])


def labelled(folder: Path, suffix: str) -> tuple[Path, Path]:
    images, labels = folder / "images", folder / "labels"
    for path in (images / f"a{suffix}", images / "b.png", labels / "a.txt", labels / "b.TXT", labels / "classes.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return images, labels


def test_suffixes_in_capitals_are_images_too(tmp_path):
    images, labels = labelled(tmp_path, ".PNG")
    pairs = images_with_labels(images, ".png", labels, ".txt", "complete it")
    assert pairs == [(images / "a.PNG", labels / "a.txt"), (images / "b.png", labels / "b.TXT")]


@pytest.mark.parametrize("lost", ["images/b.png", "labels/a.txt"])
def test_neither_images_nor_labels_are_left_out_silently(tmp_path, lost):
    images, labels = labelled(tmp_path, ".png")
    (tmp_path / lost).unlink()
    with pytest.raises(DataSourceError, match=f"{lost} does not exist, but .* does; complete it"):
        images_with_labels(images, ".png", labels, ".txt", "complete it")


VOC = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"


@pytest.mark.parametrize(
    ("root", "left", "message"),
    [
        ("annotation", "nan", "has no area"),
        ("annotation", "9", "has no area"),
        ("html", "1", "begins with <html>, and PASCAL VOC with <annotation>"),
    ],
)
def test_voc_files_without_usable_boxes_are_named(tmp_path, root, left, message):
    path = tmp_path / "a.xml"
    path.write_text(f"<{root}><object>{VOC.format(left)}</object></{root}>")
    with pytest.raises(DataSourceError, match=message):
        read_voc_boxes(path)
