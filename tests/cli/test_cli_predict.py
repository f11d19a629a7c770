from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyogrio
import pytest
import rasterio
from click.testing import CliRunner, Result
from geo_scenes import blob_scene, write_raster
from rasterio.rio.main import main_group

from dynamicvis.cli.main import dynamicvis

HERE = Path(__file__).parent


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "site.tif", blob_scene(150, 170, seed=1)[0])


def run(*arguments: object, command: str = "predict", model: str = "blobs") -> Result:
    with warnings.catch_warnings(action="error"):
        return CliRunner().invoke(dynamicvis, [command, "--model", model, *map(str, arguments)])


def run_process(shipped: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; settings of `cli_models` by name."""
    path = os.pathsep.join([str(HERE), str(HERE.parent / "geo"), *(entry for entry in sys.path if entry)])
    settings = {f"TEST_{name.upper()}": str(value) for name, value in options.items()}
    return subprocess.run(
        [sys.executable, str(HERE / "cli_models.py"), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, "TEST_WEIGHTS": str(shipped)} | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused(result: Result, pattern: str, exit_code: int = 1) -> None:
    """One sentence on stderr, nothing on stdout, no traceback."""
    assert result.exit_code == exit_code, result.stderr
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert re.fullmatch(rf"(Usage: .*\n\n)?Error: [^\n]*{pattern}[^\n]*\n", result.stderr, re.DOTALL), result.stderr


def test_prints_the_paths_and_the_count(loader: Any, scene: Path, tmp_path: Path) -> None:
    truth = blob_scene(150, 170, seed=1)[1]
    trees = sum(label == 0 for *_, label in truth)
    result = run(scene, "-o", tmp_path / "out")
    assert result.exit_code == 0
    *paths, count = result.stdout.splitlines()
    assert paths == [str(tmp_path / "out" / f"site.{suffix}") for suffix in ("gpkg", "geojson", "png")]
    assert all(Path(path).is_file() for path in paths)
    by_class = sorted([(trees, "tree"), (len(truth) - trees, "shrub")], reverse=True)
    assert count == f"{len(truth)} objects: " + ", ".join(f"{number} {name}" for number, name in by_class)
    assert result.stderr == ""


def test_counts_of_none_and_one(loader: Any, tmp_path: Path) -> None:
    image = np.full((3, 20, 20), 20, np.uint8)
    path = write_raster(tmp_path / "a.tif", image)
    assert run(path, "-o", tmp_path / "out").stdout.splitlines()[-1] == "0 objects"
    image[0, 5:10, 5:10] = image[2, 5:10, 5:10] = 250
    write_raster(path, image)
    assert run(path, "-o", tmp_path / "out", "--overwrite").stdout.splitlines()[-1] == "1 object: 1 tree"


@pytest.mark.parametrize(
    ("model", "names", "count"),
    [
        ("masks", "gpkg geojson png", r"\d+ objects: .*"),
        ("fields", "tif gpkg png", r"\d+ polygons: \d+ wood, \d+ water|\d+ polygons: \d+ water, \d+ wood|\d+ poly.*"),
        ("kinds", "tif gpkg png", r"9 cells: 9 water"),
    ],
)
def test_each_task_writes_its_own_files(
    loader: Any, scene: Path, tmp_path: Path, model: str, names: str, count: str
) -> None:
    result = run(scene, "-o", tmp_path / "out", model=model)
    assert result.exit_code == 0, result.stderr
    *paths, line = result.stdout.splitlines()
    assert [Path(path).name for path in paths] == [f"site.{suffix}" for suffix in names.split()]
    assert re.fullmatch(count, line)


def test_change_of_two_scenes(loader: Any, scene: Path, tmp_path: Path) -> None:
    later = write_raster(tmp_path / "later.tif", np.full((3, 150, 170), 200, np.uint8))
    result = run(scene, later, "-o", tmp_path / "out", "--tile", 50, command="change", model="changes")
    assert result.exit_code == 0, result.stderr
    assert [Path(line).name for line in result.stdout.splitlines()[:-1]] == ["site.tif", "site.gpkg", "site.png"]
    assert "changed" in result.stdout.splitlines()[-1]
    assert {shape[1:] for shape in loader.shapes} == {(6, 50, 50)}
    with rasterio.open(tmp_path / "out" / "site.tif") as found, rasterio.open(scene) as before:
        np.testing.assert_array_equal(found.read(1), before.read(1) < 150)


def test_change_aligns_only_when_asked(loader: Any, scene: Path, tmp_path: Path) -> None:
    with rasterio.open(scene) as source:
        coarse = source.transform @ source.transform.scale(2)
    later = write_raster(tmp_path / "later.tif", np.full((3, 75, 85), 200, np.uint8), transform=coarse)
    arguments = (scene, later, "-o", tmp_path / "out")
    assert_refused(run(*arguments, command="change", model="changes"), "--align")
    assert run(*arguments, "--align", command="change", model="changes").exit_code == 0


def test_change_compares_one_with_one(loader: Any, scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        write_raster(folder / f"{name}.tif", np.ones((3, 9, 9), np.uint8))
    arguments = ("-o", tmp_path / "out")
    assert_refused(run(scene, folder, *arguments, command="change", model="changes"), "names 2 scenes")
    assert_refused(run(scene, scene, *arguments, command="change"), "for detection and not for change")
    assert_refused(run(scene, *arguments, model="changes"), "use `dynamicvis change BEFORE AFTER`")


def test_embed(loader: Any, scene: Path, tmp_path: Path) -> None:
    result = run(scene, "-o", tmp_path / "out", command="embed")
    assert result.exit_code == 0, result.stderr
    assert [Path(line).name for line in result.stdout.splitlines()[:-1]] == ["site.tif", "site.parquet", "site.png"]
    assert result.stdout.splitlines()[-1] == "9 cells"
    assert [options for *_, options in loader.calls] == [{"selection": False, "embedding": True}]


def test_options_reach_the_model(loader: Any, scene: Path, tmp_path: Path) -> None:
    result = run(
        scene, "-o", tmp_path, "--tile", 50, "--overlap", 0, "--batch-size", 5, "--device", "cpu", "--readers", 3
    )
    assert result.exit_code == 0
    assert [device for _, device, _ in loader.calls] == ["cpu"]
    # A batch never reaches across a row of tiles.
    assert loader.shapes == [(4, 3, 50, 50)] * 3


def test_options_reach_the_scene(loader: Any, scene: Path, tmp_path: Path) -> None:
    values: list[Any] = []
    fields = loader.models["fields"]
    loader.models["fields"] = lambda images: values.append(images) or fields(images)
    loader.models["fields"].card = fields.card
    with rasterio.open(scene) as source:
        left, bottom = source.transform @ (10, 40)
        right, top = source.transform @ (50, 20)
        expected = source.read([3, 2, 1], window=((20, 40), (10, 50)))
    result = run(
        *(scene, "-o", tmp_path / "out.tif", "-b", "3,2,1", "--nodata", 250),
        *("--bounds", f"{left} {bottom} {right} {top}", "--tile", 40, "--overlap", 0),
        model="fields",
    )
    assert result.exit_code == 0, result.stderr
    data = ~(expected == 250).all(axis=0)
    np.testing.assert_array_equal(values[0][0][:, :20][:, data], expected[:, data])
    with rasterio.open(tmp_path / "out.tif") as out:
        assert (out.height, out.width) == (20, 40)
        np.testing.assert_allclose(out.transform @ (0, 0), (left, top))


def test_options_reach_the_outputs(loader: Any, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(
        *(scene, "-o", out, "-f", "tif", "-f", ".fgb", "--scores", "--selection", "--preview"),
        *("--co", "COMPRESS=LZW", "--co", "blocksize=128"),
        model="fields",
    )
    assert result.exit_code == 0, result.stderr
    names = {"site.tif", "site.fgb", "site.html", "site-scores.tif", "site-selection.tif"}
    assert {path.name for path in out.iterdir()} == names | {".dynamicvis"}
    for name in (name for name in names if name.endswith(".tif")):
        with rasterio.open(out / name) as raster:
            assert raster.compression.name == "lzw"
            assert raster.block_shapes[0] == (128, 128)
    assert loader.calls[0][2] == {"selection": True, "embedding": False}


def test_max_memory_lowers_the_batch_or_refuses(loader: Any, scene: Path, tmp_path: Path) -> None:
    assert_refused(run(scene, "-o", tmp_path / "out", "--max-memory", "1MB"), "memory")
    assert_refused(run(scene, "-o", tmp_path / "out", "--max-memory", "much"), "much")
    assert run(scene, "-o", tmp_path / "out", "--max-memory", "100GB").exit_code == 0


def test_a_model_file_by_its_path(loader: Any, scene: Path, tmp_path: Path, shipped: Path) -> None:
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes((shipped / "blobs.safetensors").read_bytes())
    assert run(scene, "-o", tmp_path / "out", model=str(copy)).exit_code == 0
    assert loader.calls[0][0] == copy


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb", "parquet", "png", "html"])
def test_one_file_by_its_suffix(loader: Any, scene: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "new" / f"trees.{suffix}"
    result = run(scene, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(out)
    assert [path for path in out.parent.iterdir() if path.name != ".dynamicvis"] == [out]


def test_outputs_that_make_no_sense(loader: Any, scene: Path, tmp_path: Path) -> None:
    for arguments, pattern in [
        (("-o", tmp_path / "trees.shp"), r"trees\.shp has an unknown suffix; name a file with one of \.tif, .*\.html"),
        (("-o", tmp_path / "out", "-f", "shp"), r"'\.shp' is no known format"),
        (("-o", tmp_path / "trees.tif"), "gives objects and no raster"),
        (("-o", tmp_path / "trees.gpkg", "-f", "fgb"), "leave --format out"),
        (("-o", tmp_path / "out", "--scores"), "leave --scores out"),
    ]:
        assert_refused(run(scene, *arguments), pattern)
    assert_refused(run(scene, "-o", scene, model="fields"), "is the scene itself")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site.tif", "weights"]


@pytest.mark.parametrize("quiet", [False, True])
def test_notes_go_to_stderr_unless_quiet(loader: Any, tmp_path: Path, quiet: bool) -> None:
    place = rasterio.Affine(1.0, 0, 404211.9, 0, -1.0, 3285142.9)
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 9, 9), np.uint8), transform=place)
    result = run(path, "-o", tmp_path / "out", *(["-q"] if quiet else []))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "0 objects"
    if quiet:
        assert result.stderr == ""
    else:
        assert re.fullmatch(r"Note: .*a\.tif has pixels of 1 m, but model 'blobs' .*0\.1 m.*\n", result.stderr)


@pytest.mark.parametrize("option", [None, "-q", "--json"])
def test_a_terminal_sees_a_bar_on_stderr_unless_quiet(
    loader: Any, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str | None
) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    other = write_raster(tmp_path / "other.tif", blob_scene(150, 170, seed=2)[0])
    result = run(scene, other, "-o", tmp_path / "out", *([option] if option else []))
    assert result.exit_code == 0
    assert "20/20" not in result.stdout
    if option:
        assert result.stderr == ""
        return
    for name in ("site", "other"):
        # Drawn a last time when it is closed.
        bars = re.findall(rf"{name}: 100%\S* 20/20 \[\d\d:\d\d<\d\d:\d\d, *[\d.]+tile/s, [\d.]+ Mpx/s\]", result.stderr)
        assert bars
        assert re.search(rf"\n{name}: most of the time went to ", result.stderr)


def test_the_bar_on_a_real_terminal_is_on_stderr(loader: Any, scene: Path, tmp_path: Path, shipped: Path) -> None:
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 25, 120, 0, 0))
    path = os.pathsep.join([str(HERE), str(HERE.parent / "geo"), *(entry for entry in sys.path if entry)])
    process = subprocess.run(
        [sys.executable, str(HERE / "cli_models.py"), "predict", "--model", "blobs", scene, "-o", tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": path, "TEST_WEIGHTS": str(shipped)},
        stdout=subprocess.PIPE,
        stderr=end,
        text=True,
        check=True,
    )
    os.close(end)
    assert process.stdout.splitlines()[0] == str(tmp_path / "out" / "site.gpkg")
    assert b"20/20" in os.read(terminal, 65536)
    os.close(terminal)


def make_many(folder: Path) -> None:
    """Two scenes that can be used and one that cannot."""
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(("a", "c")):
        write_raster(folder / f"{name}.tif", blob_scene(80, 80, seed)[0])
    write_raster(folder / "b.tif", np.ones((1, 9, 9), np.uint8))


@pytest.mark.parametrize("how", ["files", "folder", "pattern", "list"])
def test_a_scene_that_fails_does_not_stop_the_others(loader: Any, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "scenes"
    make_many(folder)
    (tmp_path / "list.txt").write_text("# all of them\nscenes/a.tif\nscenes/b.tif\n\nscenes/c.tif\n")
    arguments = {
        "files": [folder / f"{name}.tif" for name in "abc"],
        "folder": [folder],
        "pattern": [folder / "*.tif"],
        "list": [tmp_path / "list.txt"],
    }
    result = run(*arguments[how], "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    written = [Path(line).name for line in result.stdout.splitlines() if line.endswith(".gpkg")]
    assert written == ["a.gpkg", "c.gpkg"]
    error, summary = result.stderr.splitlines()
    assert re.fullmatch(r"Error: .*scenes/b\.tif has 1 band, .*\(red, green, blue\).*", error)
    assert summary == "1 of 3 scenes failed"
    assert len(loader.calls) == 1


def write_item(path: Path, name: str, **assets: str) -> dict[str, Any]:
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2026-01-01T00:00:00Z"},
        "links": [],
        "assets": {key: {"href": href, "type": "image/tiff; application=geotiff"} for key, href in assets.items()},
    }
    path.write_text(json.dumps(item))
    return item


def test_stac_items(loader: Any, tmp_path: Path, scene: Path) -> None:
    write_item(tmp_path / "item.json", "place-1", visual="site.tif", other="gone.tif")
    assert run(tmp_path / "item.json", "-o", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "place-1.gpkg").exists()
    write_item(tmp_path / "bare.json", "place-2", red="r.tif", green="g.tif")
    assert_refused(run(tmp_path / "bare.json", "-o", tmp_path / "out"), "place-2 has none.*--asset: red, green")
    both = (tmp_path / "item.json", tmp_path / "bare.json")
    result = run(*both, "-o", tmp_path / "two", "--asset", "visual")
    assert result.exit_code == 1
    assert (tmp_path / "two" / "place-1.gpkg").exists()
    assert re.search(r"item place-2 has no asset 'visual'; choose one by --asset: red, green", result.stderr)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(
        run(tmp_path / "item.json", "-o", tmp_path / "gone", "--asset", "other"), r"gone\.tif does not exist"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_json_is_all_there_is_on_stdout(loader: Any, tmp_path: Path) -> None:
    make_many(tmp_path / "scenes")
    result = run(tmp_path / "scenes", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    first, failed, _ = json.loads(result.stdout)
    assert set(first) == {"scene", "error", "paths", "counts", "tiles", "notes", "seconds"}
    assert first["error"] is None
    assert all(Path(path).is_file() for path in first["paths"])
    assert sum(first["counts"].values()) == len(blob_scene(80, 80, 0)[1])
    assert first["seconds"]["tiles"] == first["tiles"] == 4
    assert failed["scene"].endswith("b.tif")
    assert "1 band" in failed["error"]
    again = json.loads(run(tmp_path / "scenes" / "a.tif", "-o", tmp_path / "out", "--json").stdout)
    assert again == [first | {"seconds": None}]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_writes_nothing(loader: Any, tmp_path: Path, as_json: bool) -> None:
    make_many(tmp_path / "scenes")
    before = sorted(tmp_path.rglob("*"))
    options = ["--json"] if as_json else []
    result = run(tmp_path / "scenes", "-o", tmp_path / "out", "--dry-run", "--scores", *options, model="fields")
    assert result.exit_code == 1
    assert "1 of 3 scenes failed" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    if as_json:
        first, failed, last = json.loads(result.stdout)
        assert failed["error"]
        assert last["paths"][0] == str(tmp_path / "out" / "c.tif")
        assert (first["rows"], first["columns"], first["tile"], first["overlap"]) == (2, 2, 64, 32)
        assert first["output"] == 80 * 80 * (1 + 3 * 4)
        assert first["memory"] > 50e6
    else:
        assert result.stdout.count("2 x 2 tiles of 64 pixels, overlap 32") == 2
        assert str(tmp_path / "out" / "c-scores.tif") in result.stdout


def test_a_dry_run_of_a_change(loader: Any, scene: Path, tmp_path: Path) -> None:
    result = run(scene, scene, "-o", tmp_path / "out", "--dry-run", "--json", command="change", model="changes")
    assert json.loads(result.stdout)[0]["rows"] == 4
    assert not (tmp_path / "out").exists()


def test_the_same_command_again_has_nothing_to_do(loader: Any, scene: Path, tmp_path: Path) -> None:
    first = run(scene, "-o", tmp_path / "out")
    batches = len(loader.shapes)
    second = run(scene, "-o", tmp_path / "out")
    assert second.exit_code == 0
    assert second.stdout == first.stdout
    assert second.stderr == "Note: site was done before, by the same command; --overwrite does it anew\n"
    assert len(loader.shapes) == batches
    assert_refused(run(scene, "-o", tmp_path / "out", "--tile", 32), r"site\.gpkg exists already; add --overwrite")
    assert_refused(run(scene, "-o", tmp_path / "out", "--no-resume"), r"site\.gpkg exists already; add --overwrite")
    assert run(scene, "-o", tmp_path / "out", "--overwrite").exit_code == 0
    assert len(loader.shapes) > batches


def test_interrupted_half_way(loader: Any, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = run(scene, "-o", tmp_path / "whole")
    assert whole.exit_code == 0
    batches = len(loader.shapes)
    loader.interrupt_at = 2 * batches - 1
    options = (scene, "-o", out)
    result = run(*options)
    assert_refused(
        result, "interrupted; finished rows of tiles are kept, and the same command goes on from there", exit_code=130
    )
    assert [path.name for path in out.iterdir()] == [".dynamicvis"]
    assert_refused(run(*options, "--tile", 32), "interrupted run for site.gpkg with .* or --no-resume to begin anew")
    seen = len(loader.shapes)
    result = run(*options)
    assert result.exit_code == 0
    assert 0 < len(loader.shapes) - seen < batches
    for path in (tmp_path / "whole").glob("*.*"):
        if path.is_file():
            assert (out / path.name).read_bytes() == path.read_bytes()


def test_interrupted_in_the_first_row_leaves_nothing(loader: Any, scene: Path, tmp_path: Path) -> None:
    loader.interrupt_at = 1
    before = sorted(tmp_path.rglob("*"))
    result = run(scene, "-o", tmp_path / "out", "--no-resume")
    assert_refused(result, "interrupted.*without --no-resume", exit_code=130)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_done_is_told_when_many_are_interrupted(loader: Any, tmp_path: Path) -> None:
    make_many(tmp_path / "scenes")
    loader.interrupt_at = 3
    result = run(tmp_path / "scenes", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 130
    done, failed = json.loads(result.stdout)
    assert done["error"] is None
    assert failed["error"] is not None
    assert result.stderr.splitlines()[-1].startswith("Error: interrupted")


def test_runs_as_a_plugin_of_rio(loader: Any, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(dynamicvis, click.Group)
    monkeypatch.setitem(main_group.commands, dynamicvis.name, dynamicvis)
    result = CliRunner().invoke(
        main_group, ["dynamicvis", "predict", str(scene), "-o", str(tmp_path / "out"), "--model", "blobs"]
    )
    assert result.exit_code == 0
    assert pyogrio.read_info(tmp_path / "out" / "site.gpkg")["features"] > 0


@pytest.mark.parametrize("command", ["predict", "change", "embed"])
def test_every_option_is_explained(command: str) -> None:
    parameters = dynamicvis.commands[command].params
    assert all(option.help for option in parameters if isinstance(option, click.Option))
