from __future__ import annotations

import json
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import cv2
import numpy as np
import pytest
from tools_helpers import SOURCES, tool

from dynamicvis.data.preparation import neon_trees
from dynamicvis.data.preparation.neon_trees import Rectangle


def prepare(*arguments: str) -> int:
    return tool("prepare_data")(["neon-trees", *arguments])


def read(folder: Path, split: str) -> tuple[dict[str, list], dict[int, str]]:
    content = json.loads((folder / "annotations" / f"{split}.json").read_text())
    return content, {image["id"]: image["file_name"] for image in content["images"]}


def rectangle_of(image: dict) -> tuple[str, Rectangle]:
    stem, left, top = Path(image["file_name"]).stem.rsplit("_", 2)
    return stem, Rectangle(int(left), int(top), int(left) + image["width"], int(top) + image["height"])


def test_writes_boxes_that_lie_on_the_trees(source, tmp_path):
    out = tmp_path / "deep" / "trees"
    assert prepare("--out", str(out), "--source", str(source)) == 0
    for split in ("train_yell", "train_soap", "val", "test"):
        content, names = read(out, split)
        assert [category["name"] for category in content["categories"]] == ["tree"]
        assert content["annotations"]
        for annotation in content["annotations"]:
            x, y, width, height = (round(value) for value in annotation["bbox"])
            image = cv2.imread(str(out / "images" / names[annotation["image_id"]]))
            assert image[y : y + height, x : x + width].max() < 80
            assert annotation["area"] == pytest.approx(width * height)
    test, _ = read(out, "test")
    assert [(image["width"], image["height"]) for image in test["images"]] == [(96, 80)]
    assert [annotation["bbox"] for annotation in test["annotations"]] == [[5, 5, 35, 40], [50, 30, 40, 40]]


def test_training_and_validation_share_no_pixel_and_leave_none_out(source, tmp_path, monkeypatch):
    monkeypatch.setattr(neon_trees, "CHIP", 64)
    monkeypatch.setattr(neon_trees, "OVERLAP", 16)
    out = tmp_path / "trees"
    assert prepare("--out", str(out), "--source", str(source)) == 0
    seen = {
        (stem, split): np.zeros((height, width), dtype=bool)
        for stem, (_, width, height) in SOURCES.items()
        for split in ("train", "val")
    }
    for split in ("train_yell", "train_soap", "val"):
        content, _ = read(out, split)
        for image in content["images"]:
            stem, area = rectangle_of(image)
            seen[stem, split[:5].rstrip("_")][area.top : area.bottom, area.left : area.right] = True
            if split != "val":
                assert max(image["width"], image["height"]) <= 64
    for stem in SOURCES:
        if stem != "OSBS_029":
            train, val = seen[stem, "train"], seen[stem, "val"]
            assert not (train & val).any()
            assert (train | val).all()
            assert val[-1, -1]
            assert 0.1 < val.mean() < 0.35


def test_boxes_are_clipped_and_dropped_below_the_visible_share():
    boxes = np.array([[0.0, 0, 10, 10], [90, 0, 110, 10], [97, 0, 107, 10], [200, 0, 210, 10]])
    clipped = neon_trees.clip_boxes(boxes, Rectangle(0, 0, 100, 50))
    np.testing.assert_array_equal(clipped, [[0, 0, 10, 10], [90, 0, 100, 10]])
    np.testing.assert_array_equal(neon_trees.clip_boxes(boxes, Rectangle(100, 0, 160, 50))[:, 0], [0, 0])


def test_chips_cover_an_area_with_overlap():
    chips = neon_trees.chip_windows(Rectangle(100, 0, 1760, 500))
    assert [(chip.left, chip.right) for chip in chips] == [(100, 740), (610, 1250), (1120, 1760)]
    assert {(chip.top, chip.bottom) for chip in chips} == {(0, 500)}


def test_refuses_to_overwrite_unless_told(source, tmp_path, capsys):
    out = tmp_path / "trees"
    assert prepare("--out", str(out), "--source", str(source)) == 0
    (out / "annotations" / "test.json").write_text("mark")
    assert prepare("--out", str(out), "--source", str(source)) == 1
    error = capsys.readouterr().err
    assert str(out) in error
    assert "--overwrite" in error
    assert (out / "annotations" / "test.json").read_text() == "mark"
    assert prepare("--out", str(out), "--source", str(source), "--overwrite") == 0
    assert (out / "annotations" / "test.json").read_text() != "mark"


def test_only_what_was_made_here_is_overwritten(source, tmp_path, capsys):
    arguments = ("--source", str(source), "--overwrite", "--out")
    out = tmp_path / "trees"
    assert prepare(*arguments, str(out)) == 0
    own = out / "images" / "notes.txt"
    own.write_text("mine")
    assert prepare(*arguments, str(out)) == 1
    assert "notes.txt was not made by this program" in capsys.readouterr().err
    assert own.read_text() == "mine"
    own.rename(out / "images" / ".DS_Store")
    assert prepare(*arguments, str(out)) == 0

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    for name, reason in [("photos", "was not made by this program"), ("link", "is a link"), ("broken", "is a link")]:
        assert prepare(*arguments, str(tmp_path / name)) == 1
        assert reason in capsys.readouterr().err
    assert (tmp_path / "photos" / "a.jpg").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "link", "photos", "trees"]


def test_a_failure_leaves_nothing_behind_and_the_old_folder_alone(source, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in source.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "SOAP_061.png").write_bytes(b"no image")
    out = tmp_path / "out" / "trees"
    assert prepare("--out", str(out), "--source", str(source)) == 0
    assert prepare("--out", str(out), "--source", str(broken), "--overwrite") == 1
    assert "SOAP_061.png" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["trees"]
    assert (out / "annotations" / "test.json").is_file()


def test_a_missing_file_is_named(source, tmp_path, capsys):
    assert prepare("--out", str(tmp_path / "out"), "--source", str(tmp_path)) == 1
    error = capsys.readouterr().err
    assert "2019_YELL_2_528000_4978000_image_crop2.png" in error
    assert "pip install --no-deps deepforest==2.1.0" in error


def test_finds_the_installed_wheel_without_importing_it(monkeypatch, tmp_path, capsys):
    package = tmp_path / "deepforest"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert neon_trees.find_deepforest_data() == package / "data"


def test_without_the_wheel_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    absent = types.ModuleType("deepforest")
    absent.__spec__ = ModuleSpec("deepforest", None)
    monkeypatch.setitem(sys.modules, "deepforest", absent)
    assert prepare("--out", str(tmp_path / "out")) == 1
    assert "pip install --no-deps deepforest==2.1.0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
