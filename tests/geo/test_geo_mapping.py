from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from geo_scenes import UTM, write_raster
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from dynamicvis.geo import GeoError, map_raster, tile_grid

# What makes small files quickly; the driver and the layout are those of every run.
QUICK = {"COMPRESS": "NONE", "OVERVIEWS": "NONE", "NUM_THREADS": "1"}
TURNED = rasterio.Affine(0.4, 0.3, 500000, 0.3, -0.4, 4000000)
RANGES = {"uint8": (1, 200), "uint16": (1, 60000), "int16": (-30000, 30000), "float32": (-1000, 1000)}


def same(images: Any) -> Any:
    return images


def read(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """All bands, and where there is data."""
    with warnings.catch_warnings(action="ignore"), rasterio.open(path) as source:
        return source.read(), source.dataset_mask() > 0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def random_bands(dtype: str, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[Any]:
    low, high = RANGES[dtype]
    if dtype == "float32":
        return generator.uniform(low, high, shape).astype(np.float32)
    return generator.integers(low, high, shape, dtype=dtype)


def random_holes(height: int, width: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Rectangles, and single pixels; never everything."""
    hole = generator.random((height, width)) < 0.05
    for _ in range(2):
        top, left = generator.integers(0, height), generator.integers(0, width)
        hole[top : top + height // 2, left : left + width // 2] = True
    hole[0, 0] = hole.mean() < 0.99 and hole[0, 0]
    if hole.all():
        hole[-1, -1] = False
    return hole


def make_raster(
    path: Path, kind: str, bands: NDArray[Any], hole: NDArray[np.bool_], generator: np.random.Generator
) -> Path:
    """A raster whose pixels without data are marked in the way that ``kind`` says."""
    profile: dict[str, Any] = {"transform": TURNED} if generator.random() < 0.3 else {}
    if generator.random() < 0.5:
        profile |= {"tiled": True, "blockxsize": 16, "blockysize": 16}
    if generator.random() < 0.5:
        profile["interleave"] = "pixel"
    if kind == "sentinel":
        value = 255 if bands.dtype == np.uint8 else 0 if bands.dtype == np.uint16 else -32768
        return write_raster(path, np.where(hole, bands.dtype.type(value), bands), nodata=value, **profile)
    if kind == "nan":
        return write_raster(path, np.where(hole, np.float32(np.nan), bands), nodata=np.nan, **profile)
    if kind == "mask":
        return write_raster(path, bands, mask=~hole, **profile)
    if kind == "alpha":
        opaque = np.where(hole, 0, 255).astype(np.uint8)
        rgba = np.concatenate([bands, opaque[None]])
        return write_raster(path, rgba, photometric="RGB", alpha="YES", **profile)
    return write_raster(path, bands, **profile)


KINDS = [
    *[("uint8", kind) for kind in ("full", "sentinel", "mask", "alpha")],
    *[("uint16", kind) for kind in ("full", "sentinel", "mask")],
    *[("int16", kind) for kind in ("full", "sentinel", "mask")],
    *[("float32", kind) for kind in ("full", "sentinel", "nan", "mask")],
]


@pytest.mark.parametrize(("dtype", "kind"), KINDS)
def test_identity_reproduces_any_raster_and_its_mask(tmp_path: Path, dtype: str, kind: str) -> None:
    generator = np.random.default_rng([*dtype.encode(), *kind.encode()])
    tile = int(generator.integers(5, 17))
    sizes = [(1, 1), (tile - 1, tile + 1), (tile, 3 * tile - 2), *generator.integers(2, 70, (2, 2)).tolist()]
    for case, (height, width) in enumerate(sizes):
        overlap = int(generator.choice([0, 1, tile // 2, tile - 1]))
        count = 3 if kind == "alpha" else int(generator.choice([1, 2, 3, 5]))
        bands = random_bands(dtype, (count, height, width), generator)
        hole = random_holes(height, width, generator) if kind != "full" else np.zeros((height, width), bool)
        path = make_raster(tmp_path / f"in{case}.tif", kind, bands, hole, generator)
        for out_dtype in {dtype, "float32"}:
            out = tmp_path / f"out{case}-{out_dtype}.tif"
            options = {"tile": tile, "overlap": overlap, "batch_size": int(generator.integers(1, 6))}
            map_raster(same, path, out, out_dtype=out_dtype, creation_options=QUICK, **options)
            values, valid = read(out)
            np.testing.assert_array_equal(valid, ~hole, err_msg=f"{height} x {width}, {options}")
            bound = 0 if out_dtype != "float32" else 1e-6 * (RANGES[dtype][1] - RANGES[dtype][0])
            assert values.dtype == out_dtype
            difference = np.abs(values[:, ~hole].astype(np.float64) - bands[:, ~hole])
            assert difference.max() <= bound, (height, width, options)
            with rasterio.open(path) as source, rasterio.open(out) as written:
                assert (source.crs, source.transform) == (written.crs, written.transform)


@pytest.mark.parametrize("size", [15, 16, 17])
@pytest.mark.parametrize("overlap", range(0, 16, 3))
def test_identity_around_the_size_of_a_tile(tmp_path: Path, size: int, overlap: int) -> None:
    bands = random_bands("uint8", (1, size, size), np.random.default_rng(size))
    path = write_raster(tmp_path / "in.tif", bands)
    map_raster(same, path, tmp_path / "out.tif", tile=16, overlap=overlap, out_dtype="uint8", creation_options=QUICK)
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], bands)


def test_tiles_without_data_never_reach_the_function(tmp_path: Path) -> None:
    bands = np.zeros((2, 64, 300), np.uint8)
    bands[:, :, 40:50] = 50
    bands[:, 5, 299] = 7
    path = write_raster(tmp_path / "in.tif", bands, nodata=0)
    seen: list[Any] = []

    def fn(images: Any) -> Any:
        seen.append(images.copy())
        return images + 1

    result = map_raster(fn, path, tmp_path / "out.tif", tile=32, overlap=0, batch_size=8, creation_options=QUICK)
    # Columns 32 to 64 of both rows, and the last window of the first row.
    assert [len(images) for images in seen] == [2, 1]
    assert result.times is not None
    assert (result.times.tiles, result.times.empty) == (3, 17)
    assert all(images.any(axis=(1, 2, 3)).all() for images in seen)
    values, valid = read(tmp_path / "out.tif")
    np.testing.assert_array_equal(valid, bands[0] > 0)
    assert (values[:, valid] == bands[:, valid] + 1).all()
    assert np.isnan(values[:, ~valid]).all()


@pytest.mark.parametrize("overlap", [8, 16, 32, 50])
def test_what_depends_on_the_place_of_a_tile_makes_no_step(tmp_path: Path, overlap: int) -> None:
    path = write_raster(tmp_path / "in.tif", np.ones((1, 150, 170), np.uint8))
    answers = np.random.default_rng(0).random(2000).tolist()
    given: list[float] = []

    def fn(images: Any) -> Any:
        given.append(answers[len(given)])
        return np.full_like(images, given[-1])

    map_raster(fn, path, tmp_path / "out.tif", tile=64, overlap=overlap, batch_size=1, creation_options=QUICK)
    grid = tile_grid(150, 170, 64, overlap)
    ((values,), valid) = read(tmp_path / "out.tif")
    assert valid.all()
    assert min(given) - 1e-6 <= values.min() <= values.max() <= max(given) + 1e-6
    # The weights, sin² over a seam, change by no more than pi / 2 / (width of the seam) from one pixel to the next.
    for axis, seams in enumerate((grid.rows.seams, grid.columns.seams)):
        seam = min(end - start for start, end in seams)
        bound = np.pi / 2 / seam * (max(given) - min(given)) + 1e-6
        assert np.abs(np.diff(values, axis=axis)).max() <= bound


def test_the_result_does_not_depend_on_batch_size_and_readers(tmp_path: Path) -> None:
    bands = random_bands("float32", (2, 90, 75), np.random.default_rng(3))
    path = write_raster(tmp_path / "in.tif", bands)
    written = []
    for batch_size, readers in ((1, 1), (3, 2), (50, 4)):
        out = tmp_path / f"out{batch_size}.tif"
        options: dict[str, Any] = {"batch_size": batch_size, "readers": readers}
        map_raster(lambda images: images[:, :1] * 2, path, out, tile=32, overlap=9, **options)
        written.append(out.read_bytes())
    assert len(set(written)) == 1


def test_names_colours_tags_and_place_are_handed_on(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint16", (3, 30, 40), np.random.default_rng(0)))
    with rasterio.open(path, "r+") as sink:
        sink.descriptions = ("red", None, "nir")
    map_raster(same, path, tmp_path / "out.tif", tile=16, overlap=4, out_dtype="uint16")
    with rasterio.open(tmp_path / "out.tif") as written:
        assert written.descriptions == ("red", None, "nir")
        assert written.crs == UTM["crs"]
        assert written.transform == UTM["transform"]
        assert written.tags()["DYNAMICVIS_TILING"] == "tile 16, overlap 4"
        assert written.tags()["DYNAMICVIS_VERSION"]
        assert ColorInterp.alpha not in written.colorinterp
    # With another number of bands nobody knows their names.
    map_raster(lambda images: images[:, :2], path, tmp_path / "two.tif", tile=16, overlap=4)
    with rasterio.open(tmp_path / "two.tif") as written:
        assert written.descriptions == (None, None)
        assert written.count == 2
    chosen = map_raster(same, path, tmp_path / "chosen.tif", tile=16, overlap=4, bands=[3, 1], out_dtype="uint16")
    with rasterio.open(chosen.path) as written, rasterio.open(path) as source:
        assert written.descriptions == ("nir", "red")
        np.testing.assert_array_equal(written.read(), source.read([3, 1]))


def test_four_bands_of_bytes_are_not_taken_for_alpha(tmp_path: Path) -> None:
    bands = random_bands("uint8", (4, 20, 20), np.random.default_rng(0))
    bands[3, :10] = 0
    path = write_raster(tmp_path / "in.tif", bands, photometric="RGB", alpha="NO")
    map_raster(same, path, tmp_path / "out.tif", tile=16, overlap=4, out_dtype="uint8")
    values, valid = read(tmp_path / "out.tif")
    np.testing.assert_array_equal(values, bands)
    assert valid.all()
    with rasterio.open(tmp_path / "out.tif") as written:
        assert ColorInterp.alpha not in written.colorinterp


@pytest.mark.parametrize("palette", [False, True])
def test_the_file_is_a_cloud_optimised_geotiff(tmp_path: Path, palette: bool) -> None:
    bands = np.random.default_rng(0).choice(np.array([10, 200], np.uint8), (1, 1300, 1100), p=[0.7, 0.3])
    path = write_raster(tmp_path / "in.tif", bands, photometric="palette" if palette else "minisblack")
    colors = {value: (value, 255 - value, 7, 255) for value in range(256)}
    if palette:
        with rasterio.open(path, "r+") as sink:
            sink.write_colormap(1, colors)
    map_raster(same, path, tmp_path / "out.tif", tile=512, overlap=64, out_dtype="uint8")
    with rasterio.open(tmp_path / "out.tif") as written:
        assert written.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert written.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "DEFLATE"
        assert written.block_shapes == [(512, 512)]
        assert written.overviews(1) == [2, 4]
        np.testing.assert_array_equal(written.read(), bands)
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as overview:
        small = overview.read(1)
        if palette:
            assert overview.colormap(1) == colors
    blocks = bands[0].reshape(650, 2, 550, 2).astype(float)
    if palette:
        assert np.unique(small).tolist() == [10, 200]
        # More than two of four pixels decide.
        clear = np.abs(blocks.mean(axis=(1, 3)) - 105) > 1
        np.testing.assert_array_equal(small[clear], np.where(blocks.mean(axis=(1, 3)) > 105, 200, 10)[clear])
    else:
        assert np.abs(small - blocks.mean(axis=(1, 3))).max() <= 0.5


def test_a_colour_table_goes_with_bytes_alone(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (1, 9, 9), np.random.default_rng(0)))
    with rasterio.open(path, "r+") as sink:
        sink.write_colormap(1, {value: (value, 0, 0, 255) for value in range(256)})
    map_raster(same, path, tmp_path / "float.tif", tile=8, overlap=0)
    map_raster(
        lambda images: images.repeat(2, axis=1), path, tmp_path / "two.tif", tile=8, overlap=0, out_dtype="uint8"
    )
    for name in ("float.tif", "two.tif"):
        with rasterio.open(tmp_path / name) as written:
            assert ColorInterp.palette not in written.colorinterp


def test_creation_options_replace_ours(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (1, 300, 300), np.random.default_rng(0)))
    options = {"compress": "LZW", "BLOCKSIZE": "128", "OVERVIEWS": "NONE"}
    map_raster(same, path, tmp_path / "out.tif", tile=128, overlap=0, creation_options=options)
    with rasterio.open(tmp_path / "out.tif") as written:
        assert written.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "LZW"
        assert written.block_shapes == [(128, 128)]
        assert written.overviews(1) == []


def test_a_raster_without_a_place_is_mapped_too(tmp_path: Path) -> None:
    bands = random_bands("uint8", (2, 20, 30), np.random.default_rng(0))
    with warnings.catch_warnings(action="ignore"):
        path = write_raster(tmp_path / "in.tif", bands, crs=None, transform=None)
    with warnings.catch_warnings(action="error"):
        map_raster(same, path, tmp_path / "out.tif", tile=16, overlap=4, out_dtype="uint8")
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], bands)
    with warnings.catch_warnings(action="ignore"), rasterio.open(tmp_path / "out.tif") as written:
        assert written.crs is None
        assert written.transform.is_identity


def test_bounds_cut_out_a_part(tmp_path: Path) -> None:
    bands = random_bands("int16", (1, 50, 60), np.random.default_rng(0))
    path = write_raster(tmp_path / "in.tif", bands)
    (left, top), (right, bottom) = (UTM["transform"] @ corner for corner in ((7, 11), (40, 33)))
    map_raster(same, path, tmp_path / "out.tif", tile=16, overlap=4, bounds=(left, bottom, right, top))
    np.testing.assert_allclose(read(tmp_path / "out.tif")[0], bands[:, 11:33, 7:40], rtol=1e-6)
    with rasterio.open(tmp_path / "out.tif") as written:
        np.testing.assert_allclose(written.transform @ (0, 0), (left, top), atol=1e-6)


def test_a_nodata_value_of_the_caller(tmp_path: Path) -> None:
    bands = random_bands("uint8", (1, 20, 20), np.random.default_rng(0))
    bands[0, 3:9] = 222
    path = write_raster(tmp_path / "in.tif", bands)
    map_raster(same, path, tmp_path / "out.tif", tile=16, overlap=4, nodata=222)
    assert np.flatnonzero(~read(tmp_path / "out.tif")[1].any(axis=1)).tolist() == [*range(3, 9)]


@pytest.mark.parametrize(
    ("out_dtype", "out_nodata", "stored"),
    [("float32", None, np.nan), ("float32", -1, -1), ("uint8", None, None), ("uint8", 255, 255), ("int16", -1, -1)],
)
def test_nodata_of_the_output(tmp_path: Path, out_dtype: str, out_nodata: float | None, stored: float | None) -> None:
    bands = random_bands("uint8", (2, 20, 20), np.random.default_rng(0))
    bands[:, 3:9] = 0
    path = write_raster(tmp_path / "in.tif", bands, nodata=0)
    map_raster(same, path, tmp_path / "out.tif", tile=16, overlap=4, out_dtype=out_dtype, out_nodata=out_nodata)
    values, valid = read(tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as written:
        np.testing.assert_equal(written.nodata, stored)
    np.testing.assert_array_equal(valid, bands[0] > 0)
    np.testing.assert_allclose(values[:, valid], bands[:, valid], rtol=1e-6)
    if stored is not None:
        np.testing.assert_array_equal(values[:, ~valid], np.full((2, (~valid).sum()), stored, values.dtype))


def test_integers_are_rounded_and_clipped(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", np.arange(1, 17, dtype=np.uint8).reshape(1, 4, 4))

    def fn(images: Any) -> Any:
        return images * 20 - 20.4

    map_raster(fn, path, tmp_path / "out.tif", tile=4, overlap=0, out_dtype="uint8")
    expected = [0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 255, 255, 255]
    assert read(tmp_path / "out.tif")[0].ravel().tolist() == expected


def test_values_that_are_not_finite_become_nodata(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (2, 40, 40), np.random.default_rng(0)) // 20)

    def fn(images: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            answer = 100 / (images - 3)
        answer[:, 1][images[:, 0] == 5] = np.nan
        return answer

    for out_dtype in ("float32", "int16"):
        map_raster(fn, path, tmp_path / f"{out_dtype}.tif", tile=16, overlap=8, out_dtype=out_dtype)
        bands = read(path)[0]
        expected = (bands != 3).all(axis=0) & (bands[0] != 5)
        values, valid = read(tmp_path / f"{out_dtype}.tif")
        np.testing.assert_array_equal(valid, expected)
        wanted = 100 / (bands[:, valid].astype(float) - 3)
        bound = 1e-4 if out_dtype == "float32" else 0.51
        np.testing.assert_allclose(values[:, valid], wanted, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_tensors_are_taken_too(tmp_path: Path, dtype: torch.dtype) -> None:
    bands = random_bands("uint8", (1, 20, 30), np.random.default_rng(0)) // 2
    path = write_raster(tmp_path / "in.tif", bands)

    def fn(images: Any) -> Any:
        return torch.from_numpy(images).requires_grad_().to(dtype)

    map_raster(fn, path, tmp_path / "out.tif", tile=16, overlap=4, out_dtype="uint8")
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], bands)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int64", "float64"])
def test_arrays_of_other_types_are_taken_too(tmp_path: Path, dtype: str) -> None:
    bands = random_bands("uint8", (1, 20, 30), np.random.default_rng(0)) % 2
    path = write_raster(tmp_path / "in.tif", bands)
    map_raster(lambda images: images.astype(dtype), path, tmp_path / "out.tif", tile=16, overlap=4, out_dtype="uint8")
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], bands)


@pytest.mark.parametrize(
    "fn",
    [
        lambda images: images[0],
        lambda images: images[:, :, 1:],
        lambda images: images[:, 0],
        lambda images: images[:1].repeat(len(images) + 1, axis=0),
        lambda images: images[:, :, ::2, ::2],
        lambda images: None,
    ],
)
def test_an_answer_of_another_shape_is_refused_and_leaves_nothing(tmp_path: Path, fn: Any) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (2, 40, 40), np.random.default_rng(0)))
    with pytest.raises(ValueError, match=r"the function gave an array of shape .*; it must be \(3, K, 16, 16\)"):
        map_raster(fn, path, tmp_path / "out" / "out.tif", tile=16, overlap=0)
    assert not (tmp_path / "out").exists()


def test_an_answer_without_channels_is_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (2, 40, 40), np.random.default_rng(0)))
    with pytest.raises(ValueError, match="shape"):
        map_raster(lambda images: images[:, :0], path, tmp_path / "out.tif", tile=16, overlap=0)


@pytest.mark.parametrize("change_at", [1, 3])
def test_another_number_of_channels_in_the_middle_is_refused(tmp_path: Path, change_at: int) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (3, 40, 40), np.random.default_rng(0)))
    calls: list[int] = []

    def fn(images: Any) -> Any:
        calls.append(1)
        return images[:, : 2 if len(calls) > change_at else 3]

    with pytest.raises(ValueError, match="channels"):
        map_raster(fn, path, tmp_path / "out.tif", tile=16, overlap=0, batch_size=1)
    assert not (tmp_path / "out.tif").exists()


class Failing:
    """Gives back what it gets, but fails at one of its calls; one is as good as another."""

    digest = "gives back what it gets"

    def __init__(self, at: int = 0) -> None:
        self.calls, self._at = 0, at

    def __call__(self, images: Any) -> Any:
        self.calls += 1
        if self.calls == self._at:
            raise RuntimeError("no more")
        return images


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def refused(tmp_path: Path, **options: Any) -> str:
    """The sentence with which options are refused; the function is never called."""

    def fn(images: Any) -> Any:
        raise AssertionError("called")

    path = options.pop("path", tmp_path / "in.tif")
    out = options.pop("out", "out.tif")
    before = contents(tmp_path)
    with pytest.raises(GeoError) as caught:
        map_raster(fn, path, tmp_path / out, **({"tile": 16, "overlap": 4} | options))
    assert contents(tmp_path) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_that_cannot_be_used_is_refused_before_the_function_is_called(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (2, 40, 40), np.random.default_rng(0)))
    write_raster(tmp_path / "empty.tif", np.zeros((1, 30, 30), np.uint8), nodata=0)
    (tmp_path / "old.tif").write_text("mine")
    (tmp_path / "folder.tif").mkdir()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tile": 0}, "tile must be at least 1 pixel, not 0"),
        ({"overlap": 16}, "overlap must be at least 0 and less than tile (16 pixels), not 16"),
        ({"overlap": -1}, "overlap must be"),
        ({"batch_size": 0}, "batch size must be at least 1, not 0"),
        ({"readers": 0}, "readers must be at least 1, not 0"),
        ({"out": "out.png"}, "out.png has no suffix of a GeoTIFF; name it .tif"),
        ({"out": "old.tif"}, "old.tif exists already"),
        ({"out": "folder.tif"}, "folder.tif is a folder"),
        ({"out": "in.tif", "overwrite": True}, "in.tif is the scene itself"),
        ({"out": "old.tif/out.tif"}, "cannot write to folder"),
        ({"out_dtype": "uint8", "out_nodata": 256}, "out_nodata 256 is no value of uint8"),
        ({"out_dtype": "uint8", "out_nodata": 0.5}, "out_nodata 0.5 is no value of uint8"),
        ({"out_dtype": "uint8", "out_nodata": float("nan")}, "out_nodata nan is no value of uint8"),
        ({"out_dtype": "complex64"}, "complex64"),
        ({"out_dtype": "bool"}, "bool"),
        ({"out_dtype": "float16"}, "float16"),
        ({"out_dtype": "bytes of mine"}, "bytes of mine"),
        ({"path": tmp_path / "empty.tif"}, "empty.tif has no pixel with data"),
        ({"path": tmp_path / "gone.tif"}, "gone.tif does not exist"),
        ({"bands": [3]}, "bands 1 to 2, not 3"),
        ({"bounds": (0, 0, 1, 1)}, "do not meet"),
        ({"max_memory": "much"}, "'much' is no amount of memory"),
    ]
    for options, message in cases:
        assert message in refused(tmp_path, **options), options
    assert path.exists()


def test_a_memory_that_no_tile_fits_in_is_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (2, 40, 40), np.random.default_rng(0)))
    with pytest.raises(GeoError, match="too little even for one tile"):
        map_raster(same, path, tmp_path / "out.tif", tile=16, overlap=4, max_memory="1MB")
    map_raster(same, path, tmp_path / "out.tif", tile=16, overlap=4, max_memory="64GB")


def test_a_failure_keeps_finished_rows_and_the_next_call_goes_on(tmp_path: Path) -> None:
    bands = random_bands("uint8", (1, 64, 64), np.random.default_rng(0))
    path = write_raster(tmp_path / "in.tif", bands)
    fn = Failing(7)
    options: dict[str, Any] = {"tile": 16, "overlap": 0, "batch_size": 1, "out_dtype": "uint8"}
    with pytest.raises(RuntimeError, match="no more"):
        map_raster(fn, path, tmp_path / "out.tif", **options)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".dynamicvis", "in.tif"]
    finished = len(list(tmp_path.glob(".dynamicvis/*/*/row-*.json")))
    assert finished == 1
    assert not list(tmp_path.glob(".dynamicvis/**/*.lease"))
    # Another option is refused, and says which; --overwrite or a new beginning is not.
    with pytest.raises(GeoError, match=r"interrupted run for out\.tif with overlap 0 where this one has 4"):
        map_raster(fn, path, tmp_path / "out.tif", **(options | {"overlap": 4}))
    fn = Failing()
    result = map_raster(fn, path, tmp_path / "out.tif", **options)
    assert result.times is not None
    assert fn.calls == result.times.tiles == 16 - 4 * finished
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], bands)
    assert files(tmp_path) == ["in.tif", "out.tif", "record.json"]


def test_without_resume_an_interrupted_run_is_thrown_away(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (1, 64, 64), np.random.default_rng(0)))
    fn = Failing(3)
    with pytest.raises(RuntimeError):
        map_raster(fn, path, tmp_path / "out.tif", tile=16, overlap=0)
    times = map_raster(Failing(), path, tmp_path / "out.tif", tile=32, overlap=0, resume=False).times
    assert times is not None
    assert times.tiles == 4
    assert files(tmp_path) == ["in.tif", "out.tif", "record.json"]


def test_overwrite_replaces_what_another_call_has_written(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (1, 20, 20), np.random.default_rng(0)))
    options: dict[str, Any] = {"tile": 16, "overlap": 4, "out_dtype": "uint8"}
    map_raster(same, path, tmp_path / "out.tif", **options)
    for changed in ({"tile": 8}, {"resume": False}):
        with pytest.raises(GeoError, match=r"out\.tif exists already"):
            map_raster(same, path, tmp_path / "out.tif", **(options | changed))
    with pytest.raises(GeoError, match=r"out\.tif exists already"):
        map_raster(lambda images: images + 1, path, tmp_path / "out.tif", **options)
    map_raster(lambda images: images + 1, path, tmp_path / "out.tif", overwrite=True, **options)
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], read(path)[0] + 1)
    assert files(tmp_path) == ["in.tif", "out.tif", "record.json"]


def test_the_same_call_once_more_finds_it_done(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (1, 20, 20), np.random.default_rng(0)))
    options: dict[str, Any] = {"tile": 16, "overlap": 4, "out_dtype": "uint8"}
    assert map_raster(Failing(), path, tmp_path / "out.tif", **options).times is not None
    written = (tmp_path / "out.tif").stat()
    assert map_raster(Failing(1), path, tmp_path / "out.tif", **options).times is None
    assert (tmp_path / "out.tif").stat() == written
    (tmp_path / "out.tif").unlink()
    assert map_raster(Failing(), path, tmp_path / "out.tif", **options).times is not None


def test_creation_options_that_gdal_does_not_take_are_an_error(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", random_bands("uint8", (1, 20, 20), np.random.default_rng(0)))
    for options in ({"COMPRESS": "SQUEEZE"}, {"COMPRESSION": "LZW"}, {"BLOCKSIZE": "100"}):
        ((name, value),) = options.items()
        assert f"{name}={value}" in refused(tmp_path, path=path, creation_options=options)


def test_progress_counts_every_tile(tmp_path: Path) -> None:
    bands = np.zeros((1, 64, 96), np.uint8)
    bands[:, :, 32:64] = 50
    path = write_raster(tmp_path / "in.tif", bands, nodata=0)
    reports: list[tuple[int, int, int]] = []
    options: dict[str, Any] = {"tile": 32, "overlap": 0, "progress": lambda *report: reports.append(report)}
    map_raster(same, path, tmp_path / "out.tif", **options)
    assert reports[0] == (0, 6, 64 * 96)
    assert reports[-1] == (6, 6, 64 * 96)
    assert [done for done, *_ in reports] == sorted(done for done, *_ in reports)


def test_memory_is_bounded_by_the_tile_and_not_by_the_raster(tmp_path: Path) -> None:
    size, edge = 4000, 256
    path = write_raster(
        tmp_path / "in.tif", np.full((1, size, size), 50, np.uint8), tiled=True, compress="deflate", zlevel=1
    )
    tracemalloc.start()
    try:
        map_raster(same, path, tmp_path / "out.tif", tile=edge, overlap=32, batch_size=1, out_dtype="uint8")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size * size
