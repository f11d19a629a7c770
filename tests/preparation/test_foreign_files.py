"""Sources that were packed on macOS or edited on Windows: side files beside every file, marks before every text."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import detection_scenes as scenes
import numpy as np
import pytest
from test_region_shards import place
from tools_helpers import tool

from dynamicvis.data.matching import match_by_name, read_names
from dynamicvis.data.oscd import label_file, place_files, read_places
from dynamicvis.data.preparation.neon_trees import read_voc_boxes
from dynamicvis.data.preparation.scenes import split_scenes
from dynamicvis.data.raster import DataError
from dynamicvis.data.shards import RegionShards
from dynamicvis.mm.datasets.retrieval import BigEarthNet, ForestNet
from dynamicvis.mm.datasets.scenes import UCMerced
from dynamicvis.mm.reference.data import _PairFolders

JUNK = b"\0\5\26\7\0\2\0\0Mac OS X        "
TEXT = {".csv", ".json", ".txt", ".xml"}


def make_foreign(folder: Path, encoding: str = "utf-8-sig") -> Path:
    """Mark every text, and put beside every file and into every folder what systems leave there."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            (path / ".DS_Store").write_bytes(JUNK)
            (path / "Thumbs.db").write_bytes(JUNK)
            continue
        if path.suffix in TEXT:
            path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
        path.with_name(f"._{path.name}").write_bytes(JUNK)
    shutil.copytree(folder, folder / "__MACOSX", ignore=lambda *_: ["__MACOSX"])
    return folder


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((32, 32, 3), value, np.uint8))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_preparations_read_data_alone(tmp_path: Path, encoding: str, capsys: pytest.CaptureFixture[str]) -> None:
    ships = scenes.levir_ship(tmp_path / "ships", {"train": 3, "val": 2, "test": 2})
    nwpu = scenes.nwpu(tmp_path / "nwpu", 20)
    ssdd = scenes.ssdd(tmp_path / "ssdd", train=12, test=3)
    fmow = place(tmp_path / "fmow", "train", "zoo", 1, [{"category": "zoo", "box": [1, 2, 3, 4]}]).parents[3]
    scene_set = tmp_path / "scenes"
    for name in ("beach", "river"):
        for number in range(10):
            picture(scene_set / name / f"{number}.png", number)
    commands = {
        "levir-ship": ["--source", ships],
        "nwpu": ["--source", nwpu],
        "nwpu --boxes": ["--source", nwpu, "--boxes"],
        "ssdd": ["--source", ssdd],
        "fmow": ["--source", fmow, "--splits", "train"],
        "mosaics": ["--source", scene_set, "--grid", "2", "--tile", "8"],
    }

    def run_all(name: str) -> str:
        for command, options in commands.items():
            out = tmp_path / name / command
            arguments = [command.split()[0], *map(str, options), "--out", str(out)]
            assert tool("prepare_data")(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out.replace(f"{name}/", "")

    expected = run_all("plain")
    for source in (ships, nwpu, ssdd, fmow, scene_set):
        make_foreign(source, encoding)
    assert run_all("foreign") == expected
    made = [{path.relative_to(root) for path in root.rglob("*")} for root in (tmp_path / "plain", tmp_path / "foreign")]
    assert made[0] == made[1]


def test_readers_of_data_sets_read_what_is_data_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for folder in ("images", "masks", "second"):
            picture(tmp_path / "pairs" / folder / f"{name}.png")
    (tmp_path / "pairs" / "split.txt").write_text("a.png\n")
    for name in ("beach", "river"):
        for number in range(10):
            picture(tmp_path / "uc" / name / f"{name}{number}.png")
    (tmp_path / "uc" / "list.txt").write_text("beach/beach1.png\nriver/river2.png\n")
    picture(tmp_path / "forest" / "x" / "images" / "visible" / "composite.png")
    (tmp_path / "forest" / "train.csv").write_text("label,merged_label,example_path\nMining,Other,x\n")
    patch = tmp_path / "ben" / "P"
    patch.mkdir(parents=True)
    (patch / "P_labels_metadata.json").write_text('{"labels": ["Airports"]}')
    (tmp_path / "ben" / "train.csv").write_text("P\n")
    for name in ("images/city/imgs_1_rect/x_B04.tif", "images/city/pair/img1.png", "labels/city/cm/cm.png"):
        picture(tmp_path / "oscd" / name)
    (tmp_path / "oscd" / "images" / "train.txt").write_text("city\n")
    make_foreign(tmp_path)

    folder = tmp_path / "pairs"
    assert len(match_by_name(folder / "images", folder / "masks")) == 2
    assert read_names(folder / "split.txt") == ["a"]
    prefix = {"img_path_from": "images", "img_path_to": "second", "seg_map_path": "masks"}
    assert len(_PairFolders(str(folder), prefix, pipeline=[])) == 2
    assert len(_PairFolders(str(folder), prefix, ann_file="split.txt", pipeline=[])) == 1
    split_scenes(tmp_path / "uc", tmp_path / "lists", ["beach", "river"], train_fraction=0.5)
    lines = [line for file in (tmp_path / "lists").glob("*.txt") for line in file.read_text().splitlines()]
    assert len(set(lines)) == 20
    assert len(UCMerced("list.txt", data_root=str(tmp_path / "uc"), data_prefix={"img_path": ""}, pipeline=[])) == 2
    settings = {"data_root": str(tmp_path / "forest"), "data_prefix": {"img_path": ""}, "pipeline": []}
    assert ForestNet("train.csv", **settings).get_data_info(0)["gt_label"] == 7
    settings = {"data_root": str(tmp_path / "ben"), "data_prefix": {"img_path": ""}, "pipeline": []}
    assert len(BigEarthNet("train.csv", **settings)) == 1
    oscd = tmp_path / "oscd"
    assert read_places(oscd, "train") == (oscd / "images", ["city"])
    assert place_files(oscd / "images" / "city", 1, ["B04"])[0].name == "x_B04.tif"
    assert label_file(oscd, "city") == oscd / "labels" / "city" / "cm" / "cm.png"


def test_shards_from_a_foreign_disk(tmp_path: Path) -> None:
    place(tmp_path / "fmow", "train", "zoo", 1, [{"category": "zoo", "box": [1, 2, 3, 4]}])
    arguments = ["fmow", "--source", str(tmp_path / "fmow"), "--splits", "train", "--out", str(tmp_path / "out")]
    assert tool("prepare_data")(arguments) == 0
    make_foreign(tmp_path / "out")
    assert len(RegionShards(tmp_path / "out" / "train")) == 1


def test_lists_in_another_encoding_are_named_by_their_readers(tmp_path: Path) -> None:
    content = "straße/1.png\n".encode("latin-1")
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"list.txt is no text in UTF-8"):
        read_names(tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"list.txt is no text in UTF-8"):
        UCMerced("list.txt", data_root=str(tmp_path), pipeline=[])
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"train.txt is no text in UTF-8"):
        read_places(tmp_path, "train")


@pytest.mark.parametrize("name", ["train/labels/img_0.txt", "ground truth/003.txt", "annotations.json"])
def test_labels_in_another_encoding_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    if name.startswith("train"):
        source, command = scenes.levir_ship(tmp_path / "in", {"train": 2, "val": 2, "test": 2}), ["levir-ship"]
    else:
        source, command = scenes.nwpu(tmp_path / "in", 10), ["nwpu", *(["--boxes"] if name.endswith("txt") else [])]
    (source / name).write_bytes("ä".encode("latin-1"))
    assert tool("prepare_data")([*command, "--source", str(source), "--out", str(tmp_path / "out")]) == 1
    assert f"{Path(name).name} is no text in UTF-8" in capsys.readouterr().err


def test_voc_boxes_of_another_encoding_and_without_numbers(tmp_path: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation><object><name>Baum</name>{box}</object></annotation>", encoding="utf-16")
    assert read_voc_boxes(path).tolist() == [[1, 2, 30, 40]]
    path.write_text("<annotation><object><bndbox/></object></annotation>")
    with pytest.raises(Exception, match=r"a.xml has a box that is not four numbers") as error:
        read_voc_boxes(path)
    assert type(error.value).__name__ == "DataSourceError"


def test_an_empty_folder_of_scenes_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["mosaics", "--source", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert tool("prepare_data")(arguments) == 1
    assert "none is no folder" in capsys.readouterr().err
