"""The parts of `tools/benchmark.py geotiff`, on scenes of a few pixels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from tools_helpers import ROOT

sys.path.append(str(ROOT / "tools"))

import benchmark
from benchmarking import geotiff
from benchmarking.geotiff_overlap import ALL_KEPT, TRAINED, plot_overlap
from benchmarking.geotiff_scenes import scene_for, sparse_scene, textured_scene


def run(*arguments: object) -> int:
    return benchmark.main(["geotiff", *(str(argument) for argument in arguments)])


def part(path: Path, name: str) -> dict[str, Any]:
    return json.loads(path.read_text())[name]


def test_the_identity_runs_beside_gdal_and_earlier_parts_stay(tmp_path: Path) -> None:
    path = tmp_path / "geotiff.json"
    path.write_text('{"startup": {"model": "trees"}}')
    assert run("identity", "--size", 600, "--repeats", 2, "--json", path, "--work", tmp_path) == 0
    found = part(path, "identity")
    assert found["seconds"].keys() == {"map_raster", *geotiff.RIVALS}
    ours = found["seconds"]["map_raster"]
    for name, ratio in found["speed_against"].items():
        assert ratio == pytest.approx(found["seconds"][name]["median"] / ours["median"])
    assert ours["runs"] == 2
    assert found["megapixels_per_second"]["map_raster"] == pytest.approx(0.36 / ours["median"])
    assert found["environment"]["gdal"] == rasterio.__gdal_version__
    assert found["command"][:2] == ["geotiff", "identity"]
    assert part(path, "startup") == {"model": "trees"}


def test_no_speed_is_given_for_wrong_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(geotiff, "same", lambda images: images + 1)
    path = tmp_path / "geotiff.json"
    with pytest.raises(SystemExit):
        run("identity", "--size", 64, "--repeats", 1, "--json", path)
    assert "changed pixels" in capsys.readouterr().err
    assert not path.exists()


def test_memory_is_measured_in_fresh_processes(tmp_path: Path) -> None:
    path = tmp_path / "geotiff.json"
    assert run("memory", "--sizes", 512, 1024, "--json", path) == 0
    points = part(path, "memory")["points"]
    assert [point["size"] for point in points] == [512, 1024]
    assert all(20 < point["peak_mib"] < 4000 for point in points)
    ratio = points[1]["peak_mib"] / points[0]["peak_mib"]
    assert part(path, "memory")["largest_against_smallest"] == {"identity": pytest.approx(ratio)}


def test_a_textured_scene_has_detail_and_a_sparse_one_holes(tmp_path: Path) -> None:
    with rasterio.open(textured_scene(tmp_path / "textured.tif", 300)) as dataset:
        values = dataset.read()
    assert values.shape == (3, 300, 300)
    assert 30 < values.std() < 50
    with rasterio.open(sparse_scene(tmp_path / "sparse.tif", 5000, 0.3)) as dataset:
        mask = dataset.dataset_mask() > 0
        assert dataset.res == (0.3, 0.3)
    assert mask[:512, :512].all()
    assert mask[4096:4608, 4096:4608].all()
    assert mask[:4096].all()
    assert mask[4096:].sum() == 2 * 512**2


def test_a_real_scene_is_averaged_to_the_model_and_mirrored(tmp_path: Path) -> None:
    from dynamicvis.model_card import find_model, read_card

    card = read_card(find_model("trees"))
    source = textured_scene(tmp_path / "source.tif", 64)
    with rasterio.open(source, "r+") as dataset:
        gsd = card.gsd / 2
        dataset.transform = rasterio.Affine(gsd, 0, 0, 0, -gsd, 0)
        values = dataset.read()
    with rasterio.open(scene_for(card, source, tmp_path / "scene.tif", 80)) as dataset:
        image = dataset.read()
    mean = values.reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
    assert image.shape == (3, 80, 80)
    assert np.abs(image[:, :32, :32] - mean).max() <= 1
    assert np.array_equal(image[:, 32:64, :32], image[:, 31::-1, :32])
    assert np.array_equal(image[:, :, 64:], image[:, :, :16])


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    points = [
        {"model": name, "overlap": overlap, "differing": 0.1 / (1 + overlap)}
        for name in (TRAINED, ALL_KEPT)
        for overlap in (0, 32)
    ]
    content = {"overlap": {"model": "m", "tile": 64, "width": 128, "height": 128, "points": points}}
    (tmp_path / "geotiff.json").write_text(json.dumps(content))
    plot_overlap(tmp_path / "geotiff.json", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "geotiff.json").write_text("{}")
    with pytest.raises(ValueError, match="run `geotiff overlap` first"):
        plot_overlap(tmp_path / "geotiff.json", tmp_path / "curve.png")
