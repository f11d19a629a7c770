"""Names from outside, and what a run writes and removes: nothing outside its output, nothing that is not its own."""

from __future__ import annotations

import bisect
import json
import os
import random
import shutil
import sqlite3
import unicodedata
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyogrio
import pytest
import rasterio.shutil
from geo_scenes import blob_scene, detection_model, make_card, segmentation_model, write_raster
from test_geo_scenes import stac_item
from test_geo_vectors import CLASSES, FOUND, place
from test_geo_work import enter

from dynamicvis.geo import GeoError, Request, map_raster, predict
from dynamicvis.geo import Settings as RunSettings
from dynamicvis.geo.many import run_scenes
from dynamicvis.geo.output.file_names import check_paths
from dynamicvis.geo.output.publish import move_all
from dynamicvis.geo.output.vectors import layer_name, write_vectors
from dynamicvis.geo.runs.journal import FOLDER, Plan, Workspace
from dynamicvis.geo.scene.finding import SceneRef, find_scenes, scene_name

VECTORS = ("gpkg", "geojson", "fgb", "parquet")
NASTY = "/\\.:;'\"`[](){}<>|?*#%&!~$^=+,@ -_\t\n\r\x1b\x85\u200b\u202e\u2028\ufeffaZ9é日u\u0301"


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "site.tif", blob_scene(60, 60, seed=1)[0])


def below(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below a folder, links as what they point to."""
    found: dict[str, bytes | None] = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = os.fsencode(path.readlink())
        else:
            found[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() else None
    return found


SCENES = [
    *("gpkg_site", "sqlite_sequence", "rtree_x", "layer_styles", "select", "2024-01-01", "it's", 'q"q', "x;drop table"),
    *(
        "[1]",
        "(2) copy",
        "-dash",
        "#7",
        "*",
        "50%",
        "a?b",
        "c:d",
        "!a",
        "~",
        "<b>",
        " lead",
        "trail ",
        "日本",
        "e\u0301",
    ),
    *("s3:a", "a\nb", "tab\there", "es\x1bcape", "r\u202el", "back\\slash", "..", "...", ".hidden"),
]


def test_a_scene_may_be_called_anything_that_a_file_may_be(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "scenes", tmp_path / "out"
    folder.mkdir()
    for name in SCENES:
        shutil.copyfile(scene, folder / f"{name}.tif")
    # A relative name may begin like an address or an option.
    monkeypatch.chdir(folder)
    scenes = find_scenes([f"{name}.tif" for name in SCENES])
    settings = RunSettings(formats=("gpkg", "geojson", "fgb"))
    count = predict(scene, tmp_path / "first", detection_model()).count
    before = below(folder)
    outcomes = list(run_scenes(scenes, Request("predict", str(out), detection_model(), settings=settings)))
    assert [outcome.error for outcome in outcomes] == [None] * len(SCENES)
    printable = [name for name in SCENES if name.isprintable() and name[0] != "." and not set(name) & set("\\;!")]
    assert {f"{name}.gpkg" for name in printable} < {path.name for path in out.iterdir()}
    assert below(folder) == before
    written = [path for path in out.iterdir() if path.is_file()]
    assert len(written) == 3 * len(SCENES)
    for path in written:
        assert path.name[0] != "."
        assert path.name.replace("\u0301", "").isprintable()
    for ref in scenes:
        # By the reader that most users have, and by SQL.
        assert all(len(pyogrio.read_dataframe(out / f"{ref.name}.{suffix}")) == count for suffix in VECTORS[:3])
        with closing(sqlite3.connect(out / f"{ref.name}.gpkg")) as database:
            layers = database.execute("SELECT table_name FROM gpkg_contents").fetchall()
            assert layers == [(layer_name(ref.name),)]
            (found,) = database.execute(f'SELECT count(*) FROM "{layers[0][0]}"').fetchone()
        assert found == count > 0
        shutil.copyfile(out / f"{ref.name}.fgb", tmp_path / "plain.fgb")
        assert len(pyogrio.read_dataframe(tmp_path / "plain.fgb")) == count
        assert len(json.loads((out / f"{ref.name}.geojson").read_text())["features"]) == count


def test_random_names_go_through_a_whole_run(scene: Path, tmp_path: Path) -> None:
    generator = random.Random(1)
    names = ["".join(generator.choices(NASTY, k=generator.randint(1, 12))) for _ in range(25)]
    items = [stac_item(name, {"visual": {"href": str(scene)}}, collection=name[::-1]) for name in names]
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (out.parent / "project").mkdir()
    (out.parent / "project" / "a.txt").write_text("mine")
    before = below(tmp_path)
    # They are of one scene, which would count once.
    refs = [SceneRef(str(scene), find_scenes_of(item, tmp_path)) for item in items]
    different = {unicodedata.normalize("NFD", ref.name).casefold(): ref for ref in refs}
    request = Request("predict", str(out), detection_model(), settings=RunSettings(formats=("geojson", "png")))
    for ref in different.values():
        (outcome,) = run_scenes([ref], request)
        assert outcome.error is None
    assert len([path for path in out.iterdir() if path.is_file()]) == 2 * len(different)
    after = below(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert all(name.startswith("deep/out/") for name in after.keys() - before.keys() if name != "item.json")


def find_scenes_of(item: dict[str, Any], folder: Path) -> str:
    """Name of the scene of a STAC item."""
    path = folder / "item.json"
    path.write_text(json.dumps(item))
    (ref,) = find_scenes([path])
    path.unlink()
    return ref.name


def test_folders_that_tell_scenes_apart_are_made_safe(scene: Path, tmp_path: Path) -> None:
    other = Path(shutil.copyfile(scene, tmp_path / "other.tif"))
    items = [
        stac_item("project", {"visual": {"href": str(path)}}, collection=collection)
        for path, collection in [(scene, "../../my"), (other, "/etc")]
    ]
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    assert [ref.name for ref in find_scenes([tmp_path / "items.json"])] == ["___.._my_project", "_etc_project"]
    urls = ["s3://bucket/%2e%2e%2f..%2fmy/x.tif", "s3://bucket/b%0ac/x.tif"]
    assert [ref.name for ref in find_scenes(urls)] == ["___.._my_x", "b_c_x"]


@pytest.mark.parametrize(
    "changes", [{"id": 7}, {"collection": {"a": 1}}, {"assets": {"visual": {"href": "http://[::x"}}}]
)
def test_items_that_cannot_be_understood_are_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "item.json").write_text(json.dumps(stac_item("a", {"visual": {"href": "a.tif"}}) | changes))
    with pytest.raises(GeoError, match=r"item\.json"):
        find_scenes([tmp_path / "item.json"])


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/../...tif", "__"), ("s3://b/.x.tif?q=/y", "_x"), ("/vsizip/a.zip/..\\..\\x.tif", "___.._x")],
)
def test_the_name_of_a_scene_alone(path: str, name: str) -> None:
    assert scene_name(path) == name


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "x\n", ".h"])
def test_a_name_that_is_not_safe_is_refused(scene: Path, tmp_path: Path, name: str) -> None:
    before = below(tmp_path)
    with pytest.raises(GeoError, match="is no name that files can be called by"):
        predict(scene, tmp_path / "out", detection_model(), name=name)
    assert below(tmp_path) == before


def test_layers_are_called_by_names_that_no_sql_stumbles_over(tmp_path: Path) -> None:
    generator = random.Random(2)
    names = ["".join(generator.choices(NASTY, k=generator.randint(0, 9))) for _ in range(300)]
    names += [prefix + name for prefix in ("gpkg", "SQLite_", "rtree_", "vgpkg_") for name in names[:20]]
    with closing(sqlite3.connect(":memory:")) as database:
        for layer in {layer_name(name).casefold(): layer_name(name) for name in names}.values():
            assert layer_name(layer) == layer
            assert layer.isprintable() or "\u0301" in layer
            assert not layer.casefold().startswith(("gpkg", "sqlite_", "rtree_"))
            assert not set(layer) & set("\"'`;[]\\")
            database.execute(f'CREATE TABLE "{layer}" (a)')
            database.execute(f"SELECT * FROM [{layer}]")
    for name in names[:40]:
        path = tmp_path / "out.gpkg"
        write_vectors(path, [FOUND], place(), CLASSES, layer=layer_name(name))
        assert len(pyogrio.read_dataframe(path, layer=layer_name(name))) == 2


@pytest.mark.parametrize("name", ["site", "2024-01-01", "a b.c", "select", "Größe", "ogr_x", "50%"])
def test_other_layers_are_called_like_their_file(name: str) -> None:
    assert layer_name(name) == name


@pytest.mark.parametrize(
    "name", ["!out", "a!b", "out;x", "line\nbreak", "tab\tx", "back\\slash", "q?x=#y", "s3:x", "file:x"]
)
def test_an_output_folder_may_be_called_anything(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = RunSettings(formats=("tif", *VECTORS, "png", "html"))
    result = predict(scene, Path(name) / "a;b", segmentation_model(), name="a b", settings=settings)
    assert all(path.is_file() for path in result.paths)
    assert [path.name for path in (tmp_path / "here").iterdir()] == [name]
    assert {path.name for path in tmp_path.iterdir()} == {"here", "site.tif"}


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("s3://bucket/out", "is an address"),
        ("/vsimem/out", "virtual folder"),
        ("a\0b.gpkg", "zero byte"),
        ("a\udc80b/", "no UTF-8"),
        ("n" * 300 + "/a/", "too long for the name of a folder"),
        ("n" * 243 + ".gpkg", "too long for the name of a file"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_the_work(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    model = detection_model()
    before = below(tmp_path)
    with pytest.raises(GeoError, match=reason):
        predict(scene, out, model)
    assert not model.calls
    assert below(tmp_path) == before


@pytest.mark.parametrize("format_", ["gpkg", "fgb"])
def test_the_longest_path_that_is_accepted_can_be_written(scene: Path, tmp_path: Path, format_: str) -> None:
    name = "n" * 200

    def folder(length: int) -> Path:
        path = tmp_path
        while (left := length - len(str(path)) - 1) > 0:
            path /= "d" * min(left, 100 if left != 101 else 50)
        return path

    def refused(length: int) -> bool:
        try:
            check_paths(folder(length), [f"{name}.{format_}"])
        except GeoError:
            return True
        return False

    longest = bisect.bisect(range(4096), False, lo=len(str(tmp_path)) + 2, key=refused) - 1
    settings = RunSettings(formats=(format_,), selection=False)
    (path,) = predict(scene, folder(longest), detection_model(), name=name, settings=settings).paths
    assert path.is_file()
    model = detection_model()
    with pytest.raises(GeoError, match="lies too deep"):
        predict(scene, folder(longest + 1), model, name=name, settings=settings)
    assert not model.calls


def test_names_at_the_limit_of_the_file_system(tmp_path: Path) -> None:
    image = blob_scene(60, 60, seed=1)[0]
    every = RunSettings(formats=("tif", *VECTORS, "png", "html"), scores=True)
    for stem in ["n" * 236, "ü" * 118, "n" * 237, "ü" * 120, "n" * 251]:
        path = write_raster(tmp_path / f"{stem}.tif", image)
        model = segmentation_model()
        if len(stem.encode()) <= 236:
            assert len(predict(path, tmp_path / "out", model, settings=every).paths) == 8
        else:
            with pytest.raises(GeoError, match="too long for the name of a file"):
                predict(path, tmp_path / "out", model, settings=every)
            assert not model.calls


def test_outputs_of_two_scenes_never_take_each_others_place(scene: Path, tmp_path: Path) -> None:
    for pair in [("a", "a-scores"), ("B", "b-SCORES"), ("\u00e9", "e\u0301-scores"), ("c", "c-selection")]:
        folder = tmp_path / pair[0]
        folder.mkdir()
        for name in pair:
            shutil.copyfile(scene, folder / f"{name}.tif")
        for overwrite in (False, True):
            model = segmentation_model()
            settings = RunSettings(formats=("tif",), scores=True, selection=True, overwrite=overwrite)
            request = Request("predict", str(folder / "out"), model, settings=settings)
            with pytest.raises(GeoError, match="would both be written to"):
                list(run_scenes(find_scenes([folder]), request))
            assert not model.calls
            assert not (folder / "out").exists()


def test_no_scene_of_a_call_is_replaced(scene: Path, tmp_path: Path) -> None:
    other = Path(shutil.copyfile(scene, tmp_path / "other.tif"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "site.tif").symlink_to(other)
    os.link(scene, out / "other.tif")
    mosaic, nested = tmp_path / "mosaic.vrt", f"/vsisubfile/0,{scene}"
    rasterio.shutil.copy(scene, mosaic, driver="VRT")
    before = below(tmp_path)
    model, overwrite = segmentation_model(), RunSettings(formats=("tif",), overwrite=True)
    request = Request("predict", str(out), model, settings=overwrite)
    with pytest.raises(GeoError, match=r"is the scene itself .*other"):
        list(run_scenes(find_scenes([scene, other]), request))
    for source in (mosaic, nested, f"file://{scene}"):
        with pytest.raises(GeoError, match="is the scene itself"):
            predict(source, scene, model, settings=RunSettings(overwrite=True))
        with pytest.raises(GeoError, match="is the scene itself"):
            map_raster(lambda images: images, source, scene, overwrite=True)
    assert not model.calls
    assert below(tmp_path) == before


def test_what_a_user_keeps_among_unfinished_work_survives(scene: Path, tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "out" / FOLDER / "site"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "a.txt").write_text("mine")
    own = [root / name for name in ("src", "0123456789ab", ".0123456789ab", ".git", "fedcba987654")]
    for folder in own:
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("mine")
        (folder / "link").symlink_to(elsewhere)
    (own[1] / "plan.json").write_text("{}")
    (own[4] / "plan.json").write_text("no plan")
    (root / "aaaaaaaaaaaa").symlink_to(elsewhere)
    (root / ".aaaaaaaaaaaa").symlink_to(elsewhere)
    (root / ".env").write_text("mine")
    before = below(tmp_path)
    predict(scene, tmp_path / "out", detection_model())
    predict(scene, tmp_path / "out", detection_model(), settings=RunSettings(overwrite=True, resume=False))
    after = below(tmp_path)
    assert {name: after.get(name) for name in before} == before


def test_only_files_of_a_run_are_removed_from_a_folder_of_work(tmp_path: Path) -> None:
    work_place = Workspace(tmp_path, "x", ["x.tif"])
    with enter(work_place, Plan({}, {})) as work:
        work.finish("row-000000", {}, {})
        work.draft("row-000001.raw").touch()
        (work.folder / "notes.txt").write_text("mine")
        (work.folder / "link").symlink_to(tmp_path)
        folder = work.folder
    with enter(work_place, Plan({"b": 1}, {}), overwrite=True, resume=False):
        pass
    kept = folder.with_name(f".{folder.name}")
    assert sorted(path.name for path in kept.iterdir()) == ["link", "notes.txt"]


def test_files_that_were_being_replaced_come_back(tmp_path: Path) -> None:
    work_place = Workspace(tmp_path, "x", ["x.tif"])
    with enter(work_place, Plan({}, {})) as work:
        work.finish("row-000000", {}, {})
        # As a process leaves it that is killed between two moves of `move_all`.
        before = work.draft("outputs") / "before"
        before.mkdir(parents=True)
        (before / "x.tif").write_text("old")
    with enter(work_place, Plan({"b": 1}, {}), overwrite=True, resume=False):
        assert (tmp_path / "x.tif").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.tif"]


def test_work_is_never_done_through_links(scene: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "src").mkdir(parents=True)
    (victim / "src" / "a.txt").write_text("mine")

    def linked(target: Path, *parts: str) -> Callable[[Path], None]:
        def make(out: Path) -> None:
            out.joinpath(*parts).parent.mkdir(parents=True, exist_ok=True)
            out.joinpath(*parts).symlink_to(target)

        return make

    def a_file(*parts: str) -> Callable[[Path], None]:
        def make(out: Path) -> None:
            out.joinpath(*parts).parent.mkdir(parents=True, exist_ok=True)
            out.joinpath(*parts).write_text("mine")

        return make

    cases = [
        (linked(victim, FOLDER), "is a link"),
        (linked(tmp_path / "gone", FOLDER), "is a link"),
        (linked(victim, FOLDER, "site"), "is a link"),
        (a_file(FOLDER), "is a file"),
        (a_file(FOLDER, "site"), "is a file"),
        (linked(tmp_path / "gone"), "is a link to nothing"),
        (a_file(), "is a file"),
        (linked(tmp_path / "gone", "site.gpkg"), "exists already"),
        (linked(victim / "src" / "a.txt", "site.gpkg"), "exists already"),
    ]
    model = detection_model()
    for number, (make, reason) in enumerate(cases):
        out = tmp_path / f"out{number}"
        make(out)
        before = below(tmp_path)
        with pytest.raises(GeoError, match=reason):
            predict(scene, out, model)
        assert below(tmp_path) == before
    assert not model.calls


def test_a_link_in_the_place_of_an_output_is_replaced_itself(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "site.gpkg").symlink_to(tmp_path / "precious")
    (out / "site.png").symlink_to(tmp_path / "gone")
    predict(scene, out, detection_model(), settings=RunSettings(overwrite=True))
    assert not any(path.is_symlink() for path in out.iterdir())
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("failing", range(1, 7))
def test_files_are_all_published_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    staging, out = tmp_path / "staging", tmp_path / "out"
    staging.mkdir()
    out.mkdir()
    names = {"a.tif": "result.tif", "b.png": "result.png", "c.gpkg": "result.gpkg"}
    for name, made in names.items():
        (staging / made).write_text(f"new {name}")
    (out / "a.tif").write_text("old")
    (out / "b.png").symlink_to(tmp_path / "gone")
    (out / "c.gpkg").mkdir()
    (out / "c.gpkg" / "mine").touch()
    before = below(tmp_path)
    with pytest.raises(IsADirectoryError):
        move_all(staging, out, names)
    (staging / "before").rmdir()
    assert below(tmp_path) == before

    shutil.rmtree(out / "c.gpkg")
    before = below(tmp_path)
    replace, calls = Path.replace, []

    def failing_replace(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", failing_replace)
    if failing == 6:
        move_all(staging, out, names)
        assert {name: content for name, content in below(out).items()} == {n: f"new {n}".encode() for n in names}
    else:
        with pytest.raises(OSError, match="No space"):
            move_all(staging, out, names)
        (staging / "before").rmdir()
        assert below(tmp_path) == before


def test_lines_of_a_list_that_are_odd(scene: Path, tmp_path: Path) -> None:
    names = ["-x.tif", "#7.tif", "a\u2028b.tif", "c\x1cd.tif", "x;y.tif", "[1].tif"]
    for name in names:
        shutil.copyfile(scene, tmp_path / name)
    path = tmp_path / "list.txt"
    path.write_bytes("\r\n".join(["\ufeff-x.tif", "./#7.tif", "", *names[2:], "n" * 5000 + ".tif"]).encode())
    refs = find_scenes([path])
    assert [Path(ref.path).name for ref in refs[:-1]] == names
    with pytest.raises(GeoError, match="cannot be looked up"):
        refs[-1].open(make_card())
    with pytest.raises(GeoError, match="zero byte"):
        find_scenes(["a\0b.tif"])


def test_local_files_called_like_addresses_are_files(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ["s3:a.tif", "zip:a.tif", "file:a.tif", "https:a.tif", "GTIFF_DIR:2:site.tif"]:
        shutil.copyfile(scene, name)
        (ref,) = find_scenes([name])
        with ref.open(make_card()) as opened:
            assert opened.width == 60
    name = os.fsdecode(b"a\x80.tif")
    Path(name).symlink_to(scene)
    (ref,) = find_scenes([name])
    assert ref.name == "a_"
    with pytest.raises(GeoError, match="no UTF-8"):
        ref.open(make_card())
