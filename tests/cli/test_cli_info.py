from __future__ import annotations

import json
import warnings
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from geo_scenes import write_raster

from dynamicvis.cli import options
from dynamicvis.cli.main import dynamicvis


def run(*arguments: object) -> Result:
    with warnings.catch_warnings(action="error"):
        return CliRunner().invoke(dynamicvis, ["info", *map(str, arguments)])


def test_a_scene_that_fits(shipped: Path, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "site.tif", np.full((3, 100, 90), 150, np.uint8), nodata=0)
    result = run(path, "--model", "blobs")
    assert result.exit_code == 0
    assert result.stderr == ""
    text = result.stdout
    for part in ["90 x 100 pixels", "EPSG:32617", "0.1", "fits:       yes", "tiles:      6 of 64 pixels, overlap 32"]:
        assert part in text
    assert [line.split()[:3] for line in text.splitlines()[-3:]] == [
        ["1", "-", "red"], ["2", "-", "green"], ["3", "-", "blue"]
    ]  # fmt: skip
    assert "1.00 ± 0.00" in text


def test_as_json(shipped: Path, tmp_path: Path) -> None:
    bands = np.full((3, 100, 90), 150, np.float32)
    path = write_raster(tmp_path / "site.tif", bands, nodata=np.nan)
    result = run(path, "--model", "blobs", "--json", "-b", "3,2,1", "--tile", 50, "--overlap", 0)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["fits"] is False
    assert "float32" in found["reason"]
    assert [band["number"] for band in found["bands"]] == [3, 2, 1]
    assert {band["nodata"] for band in found["bands"]} == {"nan"}
    assert (found["tile"], found["tiles"]) == (50, 4)


def test_what_is_no_raster(shipped: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "gone.tif", "--model", "blobs")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}/gone.tif does not exist; check the name of the scene\n"


@click.command()
@options.scene_options
@options.creation_option
def echo(**values: object) -> None:
    click.echo(json.dumps(values))


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["-b", "3,2,1"], "bands", [3, 2, 1]),
        (["--bidx", "2..4"], "bands", [2, 3, 4]),
        (["-b", "4", "-b", "1..2,1"], "bands", [4, 1, 2, 1]),
        ([], "bands", None),
        (["--bounds", "-80.5 25 -80 26"], "bounds", [-80.5, 25, -80, 26]),
        (["--bounds", "[-80.5, 25, -80, 26]"], "bounds", [-80.5, 25, -80, 26]),
        (["--nodata", "-9999"], "nodata", -9999),
        (["--co", "compress=zstd", "--co", "LEVEL=9"], "creation_options", {"COMPRESS": "zstd", "LEVEL": "9"}),
    ],
)
def test_options_speak_as_rasterio_does(arguments: list[str], name: str, value: object) -> None:
    result = CliRunner().invoke(echo, arguments)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)[name] == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-b", "0"], "'0' names no bands"),
        (["-b", "3..1"], "'3..1' names no bands"),
        (["-b", "red"], "'red' names no bands"),
        (["--bounds", "1 2 3"], "'1 2 3' are no bounds"),
        (["--nodata", "black"], "'black' is not a valid float"),
        (["--co", "zstd"], "'zstd' is no creation option"),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(echo, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_every_option_is_explained() -> None:
    @click.command()
    @options.model_option(None)
    @options.scene_options
    @options.tiling_options
    @options.run_options
    def everything(**_: object) -> None: ...

    assert all(isinstance(option, click.Option) and option.help for option in everything.params)
