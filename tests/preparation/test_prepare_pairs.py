from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from change_scenes import make_oscd, make_places, write_image
from numpy.typing import NDArray
from tools_helpers import tool

from dynamicvis.data.preparation.pairs import match_dates
from dynamicvis.data.raster import read_raster


def prepare(*arguments: object) -> int:
    return tool("prepare_data")([str(argument) for argument in arguments])


def images(folder: Path) -> dict[str, NDArray[Any]]:
    return {path.stem: read_raster(path) for path in sorted(folder.iterdir())}


def mosaic(tiles: dict[str, NDArray[Any]], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """How many tiles cover each pixel; fails where a tile is elsewhere than its name says."""
    cover = np.zeros(shape[:2], np.int64)
    for name, tile in tiles.items():
        top, left = (int(part) for part in name.split("_")[-2:])
        cover[top : top + tile.shape[0], left : left + tile.shape[1]] += 1
    return cover


def test_oscd_previews_go_to_overlapping_tiles_and_whole_places(tmp_path: Path) -> None:
    source = make_oscd(tmp_path / "source", {"train": ["alpha", "beta"], "test": ["gamma"]})
    out = tmp_path / "out"
    assert prepare("oscd", "--source", source, "--out", out, "--tile", 32, "--stride", 16) == 0
    originals = {"A": "pair/img1.png", "B": "pair/img2.png", "label": "cm/cm.png"}
    for kind, file in originals.items():
        whole = {name: read_raster(next(source.glob(f"*/{name}/{file}"))) for name in ("alpha", "beta", "gamma")}
        tiles = images(out / "train" / kind)
        assert len(tiles) == 2 * 3 * 4
        assert {tile.shape[:2] for tile in tiles.values()} == {(32, 32)}
        for name in ("alpha", "beta"):
            of_place = {key: tile for key, tile in tiles.items() if key.startswith(name)}
            cover = mosaic(of_place, whole[name].shape)
            # Every pixel of the upper three quarters is in a tile, none of the lower quarter is: that is all of "val".
            assert cover[:54].min() == 1
            assert cover[18, 24] == 4
            assert cover[54:].max() == 0
            for key, tile in of_place.items():
                top, left = (int(part) for part in key.split("_")[-2:])
                np.testing.assert_array_equal(tile, whole[name][top : top + 32, left : left + 32])
            np.testing.assert_array_equal(images(out / "val" / kind)[name], whole[name][54:])
        assert set(images(out / "val" / kind)) == {"alpha", "beta"}
        assert set(images(out / "test" / kind)) == {"gamma"}
        np.testing.assert_array_equal(images(out / "test" / kind)["gamma"], whole["gamma"])


def test_oscd_trains_on_whole_places_without_validation(tmp_path: Path) -> None:
    source = make_oscd(tmp_path / "source", {"train": ["alpha"], "test": ["gamma"]})
    options = ["--tile", 32, "--stride", 16, "--val-share", 0]
    assert prepare("oscd", "--source", source, "--out", tmp_path / "out", *options) == 0
    assert mosaic(images(tmp_path / "out" / "train" / "A"), (72, 80)).min() == 1
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"train", "test"}


def test_oscd_bands_come_in_the_order_asked_for(tmp_path: Path) -> None:
    source = make_oscd(tmp_path / "source", {"train": ["alpha", "beta"], "test": ["gamma"]})
    options = ["--bands", "B08", "B02"]
    assert prepare("oscd", "--source", source, "--out", tmp_path / "out", *options) == 0
    image = images(tmp_path / "out" / "test" / "B")["gamma"]
    assert image.dtype == np.uint16
    for index, band in enumerate(("B08", "B02")):
        path = next(source.glob(f"*/gamma/imgs_2_rect/*_{band}.tif"))
        np.testing.assert_array_equal(image[..., index], read_raster(path)[..., 0])


def test_oscd_reads_a_folder_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_places(tmp_path / "source", ["alpha", "beta", "gamma"], bands=4)
    arguments = ["oscd", "--source", source, "--out", tmp_path / "out"]
    assert prepare(*arguments) == 1
    assert "has no list of test places; name them with --test" in capsys.readouterr().err
    assert prepare(*arguments, "--test", "gamma", "--tile", 48, "--stride", 24) == 0
    assert "train 12, val 2, test 1" in capsys.readouterr().out
    assert {image.shape for image in images(tmp_path / "out" / "train" / "A").values()} == {(48, 48, 4)}
    np.testing.assert_array_equal(
        images(tmp_path / "out" / "val" / "B")["beta"], read_raster(source / "beta" / "t2.tif")[54:]
    )


def test_what_differs_between_the_dates_as_a_whole_is_taken_out(tmp_path: Path) -> None:
    source = make_places(tmp_path / "source", ["alpha", "gamma"], bands=2)
    first = read_raster(source / "alpha" / "t1.tif").astype(np.float64)
    hazy = (first * [0.5, 1.2] + [90, 10]).round().astype(np.uint8)
    hazy[:4, :20] = 255  # below 2 % of the pixels
    write_image(source / "alpha" / "t2.tif", hazy)
    options = ["--val-share", 0, "--test", "gamma", "--tile", 80, "--stride", 80]
    assert prepare("oscd", "--source", source, "--out", tmp_path / "plain", *options) == 0
    assert prepare("oscd", "--source", source, "--out", tmp_path / "out", *options, "--match-dates") == 0
    for name, tolerance in (("plain", 0), ("out", 6)):
        (pair,) = zip(*(images(tmp_path / name / "train" / kind).values() for kind in ("A", "B")), strict=True)
        error = abs(pair[1].astype(float) - pair[0])[:, 20:].mean(axis=(0, 1))
        assert (error < tolerance).all() if tolerance else (error > 20).all()
        np.testing.assert_array_equal(pair[0], first)


def test_matching_keeps_type_and_range() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(40_000, 5_000, (50, 60, 2)).astype(np.uint16)
    image = generator.normal(3_000, 200, (50, 60, 2)).astype(np.uint16)
    image[..., 1] = 7
    image[0, 0, 0] = 20_000
    matched = match_dates(image, reference)
    assert matched.dtype == np.uint16
    assert matched.max() == 65_535
    for quantile in (10, 50, 90):
        wanted, found = np.percentile(reference[..., 0], quantile), np.percentile(matched[..., 0], quantile)
        assert found == pytest.approx(wanted, abs=500)
    assert len(np.unique(matched[..., 1])) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test", "nowhere"], r"has no place 'nowhere'; it has alpha, beta, gamma"),
        (["--test", "alpha", "beta", "gamma"], "is left for training"),
        (["--test", "gamma", "--val-share", "1"], "--val-share must be at least 0 and below 1, got 1.0"),
        (["--test", "gamma", "--val-share", "-0.1"], "--val-share must be at least 0 and below 1, got -0.1"),
        (["--test", "gamma", "--stride", "300"], "--stride must be from 1 to the tile's 256"),
        (["--test", "gamma", "--bands", "B02"], "--bands chooses among the archives' files"),
    ],
)
def test_oscd_says_what_is_wrong_with_the_options(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_places(tmp_path / "source", ["alpha", "beta", "gamma"], bands=4)
    assert prepare("oscd", "--source", source, "--out", tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "shape", "message"),
    [
        ("t2.tif", (70, 80, 4), "t1.tif is 80 x 72 pixels in 4 bands and"),
        ("t2.tif", (72, 80, 3), "both dates must lie on one grid"),
        ("cm.png", (72, 70, 1), "cm.png is 70 x 72 pixels in 1 bands, its images 80 x 72"),
    ],
)
def test_files_that_do_not_fit_are_named(
    file: str, shape: tuple[int, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_places(tmp_path / "source", ["alpha", "beta", "gamma"], bands=4)
    write_image(source / "alpha" / file, np.zeros(shape, np.uint8))
    options = ["--test", "gamma"]
    assert prepare("oscd", "--source", source, "--out", tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err
    write_image(source / "alpha" / "cm.png", np.full((72, 80, 1), 3, np.uint8))
    write_image(source / "alpha" / "t2.tif", np.zeros((72, 80, 4), np.uint8))
    assert prepare("oscd", "--source", source, "--out", tmp_path / "out", *options) == 1
    assert "cm.png holds the value 3; expected are 0 and 255" in capsys.readouterr().err
    (source / "alpha" / "cm.png").unlink()
    assert prepare("oscd", "--source", source, "--out", tmp_path / "out", *options) == 1
    assert "cm.png does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_landsat_keeps_what_nobody_knows_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_places(tmp_path / "source", ["here", "there"], bands=6, size=(100, 80))
    out = tmp_path / "out"
    arguments = ["landsat-cd", "--source", source, "--out", out, "--test", "there", "--tile", 40, "--stride", 20]
    assert prepare(*arguments) == 0
    assert "train 9, val 1, test 1" in capsys.readouterr().out
    whole = read_raster(source / "here" / "t1.tif")
    np.testing.assert_array_equal(images(out / "val" / "A")["here"], whole[70:])
    assert mosaic(images(out / "train" / "A"), (70, 80)).min() >= 1
    label = images(out / "test" / "label")["there"][..., 0]
    changed, unchanged = (read_raster(source / "there" / f"{kind}.png")[..., 0] for kind in ("change", "unchanged"))
    np.testing.assert_array_equal(label == 255, changed == 255)
    np.testing.assert_array_equal(label == 0, unchanged == 255)
    np.testing.assert_array_equal(label == 128, (changed | unchanged) == 0)


def test_landsat_leaves_out_tiles_without_a_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_places(tmp_path / "source", ["here", "there"], bands=6, size=(100, 80))
    for kind in ("change", "unchanged"):
        mask = read_raster(source / "here" / f"{kind}.png")
        mask[:, 40:] = 0
        write_image(source / "here" / f"{kind}.png", mask)
    arguments = ["--source", source, "--out", tmp_path / "out", "--test", "there", "--tile", 40, "--stride", 40]
    assert prepare("landsat-cd", *arguments) == 0
    assert "train 2, val 1, test 1" in capsys.readouterr().out


def test_landsat_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_places(tmp_path / "source", ["here", "there"], bands=6)
    arguments = ["landsat-cd", "--source", source, "--out", tmp_path / "out"]
    assert prepare(*arguments) == 1
    assert "has no place 'Taizhou'; it has here, there" in capsys.readouterr().err
    assert prepare(*arguments, "--test", "here", "there") == 1
    assert "is left for training" in capsys.readouterr().err
    write_image(source / "here" / "unchanged.png", read_raster(source / "here" / "change.png"))
    assert prepare(*arguments, "--test", "there") == 1
    assert "unchanged.png both claim the pixel in row" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
