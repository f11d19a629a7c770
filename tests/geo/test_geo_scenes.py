from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geo_scenes import make_card, write_raster

from dynamicvis.geo import GeoError
from dynamicvis.geo.scene.finding import SceneRef, find_scenes


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def named(refs: list[SceneRef]) -> dict[str, str]:
    return {ref.name: ref.path for ref in refs}


def test_a_folder_gives_its_rasters_in_order(tmp_path: Path) -> None:
    names = ["b.tif", "a.TIFF", "c.jp2", "a.tif.aux.xml", "b.tif.ovr", "notes.txt", "view.png", "all.vrt", ".b.tif"]
    touch(*(tmp_path / name for name in names), tmp_path / "deeper" / "d.tif")
    assert [Path(ref.path).name for ref in find_scenes([tmp_path])] == ["a.TIFF", "b.tif", "c.jp2"]


def test_a_pattern_is_expanded(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ["b1.tif", "b2.tif", "b1.tif.aux.xml", "c.tif", "deep/er/b3.tif"]))
    assert [ref.name for ref in find_scenes([f"{tmp_path}/b*"])] == ["b1", "b2"]
    assert [ref.name for ref in find_scenes([f"{tmp_path}/**/*[13].tif"])] == ["b1", "b3"]


def test_a_file_whose_name_is_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path / "a[1].tif", tmp_path / "a1.tif")
    assert named(find_scenes([tmp_path / "a[1].tif"])) == {"a[1]": str(tmp_path / "a[1].tif")}


def test_a_list_holds_all_kinds_relative_to_itself(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ["in/a.tif", "in/b1.tif", "in/b2.tif", "in/folder/c.tif"]))
    lines = ["# my scenes", "a.tif", "", "  b*.tif ", "folder", str(tmp_path / "in/a.tif"), "s3://bucket/d.tif"]
    (tmp_path / "in" / "list.txt").write_text("\n".join(lines))
    assert named(find_scenes([tmp_path / "in" / "list.txt"])) == {
        "a": str(tmp_path / "in/a.tif"),
        "b1": str(tmp_path / "in/b1.tif"),
        "b2": str(tmp_path / "in/b2.tif"),
        "c": str(tmp_path / "in/folder/c.tif"),
        "d": "s3://bucket/d.tif",
    }


def test_a_scene_named_twice_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.tif")
    monkeypatch.chdir(tmp_path)
    assert len(find_scenes(["a.tif", tmp_path, str(tmp_path / "*.tif"), "./a.tif"])) == 1


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("s3://bucket/folder/scene.tif", "scene"),
        ("/vsicurl/https://host/a%20b/scene%201.tif", "scene 1"),
        ("https://host/scene.tif?signature=a/b.c", "scene"),
        ("/vsizip/archive.zip/inner/scene.tif", "scene"),
        ("GTIFF_DIR:2:pages.tif", "pages"),
        ("zip+https://host/archive.zip!scene.tif", "archive.zip_scene"),
    ],
)
def test_remote_paths_and_parts_of_files_are_left_as_they_are(path: str, name: str) -> None:
    assert find_scenes([path]) == [SceneRef(path, name)]


def test_a_missing_file_is_found_missing_when_opened(tmp_path: Path) -> None:
    (ref,) = find_scenes([tmp_path / "gone.tif"])
    with pytest.raises(GeoError, match=r"gone\.tif does not exist"):
        ref.open(make_card())


def test_scenes_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ["a/x.tif", "b/x.tif", "b/y.tif", "p/1/z.tif", "q/1/Z.tif"]]
    touch(*files)
    assert [ref.name for ref in find_scenes(files)] == ["a_x", "b_x", "y", "p_1_z", "q_1_Z"]
    remote = ["s3://one/x.tif", "s3://two/x.tif?token=1"]
    assert [ref.name for ref in find_scenes(remote)] == ["one_x", "two_x"]


def test_scenes_that_no_folder_tells_apart_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "x.tif", tmp_path / "x.jp2")
    with pytest.raises(GeoError, match=r"x\.jp2 and .*x\.tif would be written under one name .*one by one"):
        find_scenes([tmp_path])


def test_arguments_without_scenes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("# nothing\n")
    (tmp_path / "nested.txt").write_text("list.txt\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "text.json").write_text("no json")
    for name, reason in [
        ("empty", r"empty holds no \.img, \.jp2"),
        ("*.tif", "no file fits the pattern"),
        ("list.txt", "names no scene"),
        ("nested.txt", "named in another list"),
        ("binary.txt", "cannot be read as a list"),
        ("text.json", "cannot be read as JSON"),
    ]:
        with pytest.raises(GeoError, match=reason):
            find_scenes([tmp_path / name])
    with pytest.raises(GeoError, match="remote path"):
        find_scenes(["s3://bucket/*.tif"])


def stac_item(name: str, assets: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2024-01-01T00:00:00Z"},
        "links": [],
        "assets": assets,
    } | changes


TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


@pytest.mark.parametrize(
    ("assets", "asset", "chosen"),
    [
        ({"data": {"href": "d.tif"}, "visual": {"href": "v.tif"}}, None, "v.tif"),
        ({"data": {"href": "d.tif"}, "visual": {"href": "v.tif"}}, "data", "d.tif"),
        ({"data": {"href": "d.tif"}, "other": {"href": "o.tif"}}, None, "d.tif"),
        ({"meta": {"href": "m.xml"}, "image": {"href": "i.bin", "type": TIFF}}, None, "i.bin"),
        ({"thumbnail": {"href": "t.tif", "roles": ["thumbnail"]}, "image": {"href": "i.tif"}}, None, "i.tif"),
    ],
)
def test_the_asset_of_a_stac_item(tmp_path: Path, assets: dict[str, Any], asset: str | None, chosen: str) -> None:
    path = tmp_path / "item.json"
    path.write_text(json.dumps(stac_item("S2 a/b", assets)))
    assert find_scenes([path], asset=asset) == [SceneRef(str(tmp_path / chosen), "S2_a_b")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_stac_item_and_a_list_saved_on_windows_and_a_folder_packed_on_macos(tmp_path: Path, encoding: str) -> None:
    for name in ("a.tif", "._a.tif", "__MACOSX/._a.tif", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    item, scenes = tmp_path / "item.json", tmp_path / "list.txt"
    item.write_text(json.dumps(stac_item("é", {"visual": {"href": "./a.tif"}}), ensure_ascii=False), encoding=encoding)
    scenes.write_text("# é\r\na.tif\r\n", encoding=encoding, newline="")
    assert [(ref.name, Path(ref.path)) for ref in find_scenes([item])] == [("é", tmp_path / "a.tif")]
    for argument in (scenes, tmp_path, tmp_path / "**" / "*.tif"):
        assert [Path(ref.path) for ref in find_scenes([argument])] == [tmp_path / "a.tif"]


def test_a_stac_item_without_the_asset_says_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "item.json"
    path.write_text(json.dumps(stac_item("one", {"B02": {"href": "2.tif"}, "B03": {"href": "3.tif"}})))
    for asset, reason in [(None, "none of the assets visual and data"), ("nir", "no asset 'nir'")]:
        (ref,) = find_scenes([path], asset=asset)
        with pytest.raises(GeoError, match=rf"item\.json: item one has {reason}.*--asset: B02, B03"):
            ref.open()


def test_an_item_collection_gives_all_its_items(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "a.tif", np.ones((3, 9, 9), np.uint8))
    items = [
        stac_item("a", {"visual": {"href": "./a.tif"}}),
        stac_item("b", {"visual": {"href": "https://host/b.tif"}}),
        stac_item("c", {}),
        stac_item("c", {"visual": {"href": "s3://host/c.tif"}}, collection="naip"),
        stac_item("d", {"visual": {"href": raster.as_uri()}}),
    ]
    path = tmp_path / "items.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    refs = find_scenes([path])
    assert [(ref.name, ref.problem is None) for ref in refs] == [
        ("a", True), ("b", True), ("c", False), ("naip_c", True)
    ]  # fmt: skip
    assert refs[1].path == "https://host/b.tif"
    with refs[0].open(make_card()) as scene:
        assert scene.width == 9


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"type": "FeatureCollection", "features": []}, "is an item collection without items"),
        ({"type": "Catalog", "id": "x"}, "is a STAC catalog"),
        ({"type": "Feature", "geometry": None}, "is no STAC item"),
        ({"type": "Topology"}, "is no STAC item"),
        ([1, 2], "is no STAC item"),
        (
            {"type": "FeatureCollection", "features": [], "links": [{"rel": "next", "href": "x"}]},
            "is one page of several",
        ),
    ],
)
def test_json_that_names_no_scenes(tmp_path: Path, content: Any, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(GeoError, match=rf"a\.json {reason}"):
        find_scenes([path])


def test_without_pystac_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pystac", None)
    touch(tmp_path / "item.json", tmp_path / "a.tif")
    with pytest.raises(GeoError, match=r"item\.json needs pystac: `pip install \"dynamicvis\[stac\]\"`"):
        find_scenes([tmp_path / "item.json"])
    assert len(find_scenes([tmp_path / "a.tif"])) == 1
    assert os.path.sep in find_scenes([tmp_path / "a.tif"])[0].path
