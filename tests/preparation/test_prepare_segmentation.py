from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from segmentation_data import write_massachusetts, write_oam, write_road_windows
from tools_helpers import tool

from dynamicvis.data.preparation.folder import DataSourceError
from dynamicvis.data.preparation.oam_buildings import SPLITS, prepare_oam_buildings
from dynamicvis.data.raster import read_raster, write_raster
from dynamicvis.tiling import starts, windows


def prepare(*arguments: object) -> int:
    return tool("prepare_data")([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("length", "tile", "stride", "expected"),
    [
        (1500, 512, 384, [0, 384, 768, 988]),
        (1500, 500, 500, [0, 500, 1000]),
        (64, 64, 10, [0]),
        (40, 64, 10, [0]),
        (65, 64, 64, [0, 1]),
    ],
)
def test_tiles_cover_a_length(length: int, tile: int, stride: int, expected: list[int]) -> None:
    assert starts(length, tile, stride) == expected


def test_every_pixel_is_in_a_tile_and_strides_overlap() -> None:
    covered = np.zeros((100, 130), int)
    for left, top, right, bottom in windows(100, 130, 48, 32):
        assert (right - left, bottom - top) == (48, 48)
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1
    assert covered.max() >= 4
    assert list(windows(20, 60, 48, 32)) == [(0, 0, 48, 20), (12, 0, 60, 20)]


@pytest.mark.parametrize("stride", [0, 49])
def test_strides_that_leave_pixels_out_are_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"got {stride}"):
        starts(100, 48, stride)


def test_massachusetts_tiles_are_the_original_in_pieces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_massachusetts(tmp_path / "source", {"train": 2, "valid": 1, "test": 1}, size=80)
    white = read_raster(source / "train/sat/10070_15.tiff")
    white[:48, :48] = 255
    write_raster(source / "train/sat/10070_15.tiff", white)
    out = tmp_path / "tiles"
    assert prepare("massachusetts-roads", "--source", source, "--out", out, "--tile", 48, "--stride", 32) == 0
    # One of the eight tiles has no image in it.
    assert "train 7, valid 1, test 1" in capsys.readouterr().out
    tiles = sorted((out / "train/sat").iterdir())
    assert len(tiles) == 7
    assert "10070_15_0_0.tif" not in {path.name for path in tiles}
    for path in tiles:
        name, top, left = path.stem.rsplit("_", 2)
        window = np.s_[int(top) : int(top) + 48, int(left) : int(left) + 48]
        for kind, suffix in (("sat", ".tiff"), ("map", ".tif")):
            whole = read_raster(source / "train" / kind / f"{name}{suffix}")
            np.testing.assert_array_equal(read_raster(out / "train" / kind / path.name), whole[window])
    for split in ("valid", "test"):
        for kind in ("sat", "map"):
            (path,) = (out / split / kind).iterdir()
            assert path.read_bytes() == (source / split / kind / path.name).read_bytes()


def test_massachusetts_errors_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_massachusetts(tmp_path / "source", {"train": 1, "valid": 1, "test": 1})
    out = tmp_path / "out"
    assert prepare("massachusetts-roads", "--source", source, "--out", out, "--stride", 600) == 1
    assert "600" in capsys.readouterr().err
    write_raster(source / "train/map/10070_15.tif", np.zeros((64, 60), np.uint8))
    assert prepare("massachusetts-roads", "--source", source, "--out", out) == 1
    assert "10070_15.tif are of different sizes" in capsys.readouterr().err
    (source / "valid/map/10070_15.tif").unlink()
    assert prepare("massachusetts-roads", "--source", source, "--out", out) == 1
    assert "valid/map" in capsys.readouterr().err
    assert not out.exists()


def test_road_windows_are_split_by_scene(tmp_path: Path) -> None:
    source = write_road_windows(tmp_path / "source", scenes=10, windows=3)
    out = tmp_path / "out"
    assert prepare("massachusetts-roads-windows", "--source", source, "--out", out) == 0
    names = {split: (out / f"{split}.txt").read_text().split() for split in ("train", "val", "test")}
    assert {split: len(listed) for split, listed in names.items()} == {"train": 18, "val": 6, "test": 6}
    scenes = [{name.rsplit("_", 2)[0] for name in listed} for listed in names.values()]
    assert len(set.union(*scenes)) == sum(map(len, scenes)) == 10
    for listed in names.values():
        for name in listed:
            assert (out / "images" / f"{name}.jpg").is_file()
            assert (out / "masks" / f"{name}.png").is_file()


def test_road_windows_need_scenes_and_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = write_road_windows(tmp_path / "few", scenes=4)
    assert prepare("massachusetts-roads-windows", "--source", few, "--out", tmp_path / "out") == 1
    assert "has 4 scenes" in capsys.readouterr().err
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (few / kind / f"100_15_0_0.{suffix}").rename(few / kind / f"scene.{suffix}")
    assert prepare("massachusetts-roads-windows", "--source", few, "--out", tmp_path / "out") == 1
    assert "scene.jpg is not named SCENE_ROW_COLUMN" in capsys.readouterr().err
    assert prepare("massachusetts-roads-windows", "--source", tmp_path, "--out", tmp_path / "out") == 1
    assert "images is no folder" in capsys.readouterr().err


def test_outlines_lie_on_the_buildings(tmp_path: Path) -> None:
    source = write_oam(tmp_path / "source")
    out = tmp_path / "out"
    assert prepare("oam-buildings", "--source", source, "--out", out, "--tile", 48, "--stride", 24) == 0
    found = {split: sorted((out / split / "images").iterdir()) for split in ("train", "val", "test")}
    assert all(any(read_raster(path).max() > 120 for path in paths) for paths in found.values())
    # Scenes of 256 x 384 pixels of 0.075 m are 64 x 96 of 0.3 m: two by three tiles.
    assert [len(paths) for paths in found.values()] == [4 * 2 * 3, 1, 2]
    for paths in found.values():
        for path in paths:
            image, mask = read_raster(path), read_raster(path.parents[1] / "masks" / path.name)[..., 0]
            assert set(np.unique(mask)) <= {0, 255}
            assert (image[mask == 255] > 120).all()
            assert image[mask == 0].mean() < 60
    splits = {
        path.stem.rsplit("_", 2)[0] if split == "train" else path.stem: split
        for split in found
        for path in found[split]
    }
    assert splits == SPLITS


def test_tiles_keep_their_place_on_earth(tmp_path: Path) -> None:
    source = write_oam(tmp_path / "source")
    assert prepare("oam-buildings", "--source", source, "--out", tmp_path / "out", "--tile", 48, "--stride", 24) == 0
    with rasterio.open(source / "area3_1546788_881052.tif") as scene:
        whole = scene.bounds
    for kind in ("images", "masks"):
        with rasterio.open(tmp_path / "out/train" / kind / "area3_1546788_881052_16_48.tif") as tile:
            assert tile.crs.to_epsg() == 3857
            assert tile.bounds.left == pytest.approx(whole.left + 48 * 0.3)
            assert tile.bounds.top == pytest.approx(whole.top - 16 * 0.3)
            assert tile.res == pytest.approx((0.3, 0.3))


def test_oam_errors_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_oam(tmp_path / "source")

    def error() -> str:
        assert prepare("oam-buildings", "--source", source, "--out", tmp_path / "out") == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    outlines = source / "area1.geojson"
    for content, message in (('{"type"', "no GeoJSON"), ('{"features": []}', "holds no outline")):
        outlines.write_text(content)
        said = error()
        assert "area1.geojson" in said
        assert message in said
    outlines.unlink()
    assert "lacks area1.geojson" in error()
    (source / "area1_1277168_1083840.tif").write_bytes(b"damaged")
    assert "area1.geojson" in error()
    outlines.write_text('{"features": []}')
    assert "area1_1277168_1083840.tif cannot be read" in error()


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"type": "Point", "coordinates": [0, 0]}, "no GeoJSON of polygons .it holds Point"),
        ({"type": "Polygon", "coordinates": [[[float("nan"), 0], [1, 1], [0, 1]]]}, "no GeoJSON of polygons"),
        (None, "no GeoJSON of polygons"),
    ],
)
def test_outlines_are_polygons(tmp_path: Path, geometry: object, message: str) -> None:
    source = write_oam(tmp_path / "source")
    for path in source.glob("*.geojson"):
        path.write_text(json.dumps({"features": [{"geometry": geometry}]}))
    with pytest.raises(DataSourceError, match=message):
        prepare_oam_buildings(source, tmp_path / "out")


@pytest.mark.parametrize("pixel", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_pixel_has_a_size(tmp_path: Path, pixel: float) -> None:
    with pytest.raises(DataSourceError, match="--pixel"):
        prepare_oam_buildings(write_oam(tmp_path / "source"), tmp_path / "out", pixel)


def test_scenes_of_two_bands_are_named(tmp_path: Path) -> None:
    source = write_oam(tmp_path / "source")
    for path in source.glob("*.tif"):
        with rasterio.open(path) as file:
            profile, values = file.profile, file.read([1, 2])
        with rasterio.open(path, "w", **profile | {"count": 2, "photometric": "minisblack"}) as file:
            file.write(values)
    with pytest.raises(DataSourceError, match="has 2 bands"):
        prepare_oam_buildings(source, tmp_path / "out")
