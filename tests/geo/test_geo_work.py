"""Runs that are killed, run again, and shared between processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import geo_processes
import numpy as np
import pytest
from geo_processes import Log, Nursery, PlaceModel, write_places
from geo_scenes import write_raster

from dynamicvis.geo import GeoError, Settings, map_raster, predict
from dynamicvis.geo.runs.journal import FOLDER, Plan, Work, Workspace
from dynamicvis.geo.stitching.grid import tile_grid

HEIGHT, WIDTH = 150, 100
OUTPUTS = ("site.geojson", "site.tif")
# Number of the top left pixel of each tile, by row of tiles.
ROWS = [
    [tile.window.top * WIDTH + tile.window.left + 1 for tile in tile_grid(HEIGHT, WIDTH, 64, 16).tiles_of_row(row)]
    for row in range(3)
]
TILES = Counter(number for row in ROWS for number in row)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_places(tmp_path_factory.mktemp("scene") / "site.tif", HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def expected(nursery: Nursery, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Bytes of all outputs by one process that nothing disturbs, and the changes to files that it makes."""
    folder = tmp_path_factory.mktemp("expected")
    predicted = nursery.run("run_predict", scene=scene, out=folder)
    mapped = nursery.run("run_map", scene=scene, out=folder / "map" / "map.tif")
    assert predicted["status"] == mapped["status"] == 0
    return {
        "predict": files(folder),
        "map": (folder / "map" / "map.tif").read_bytes(),
        "changes of predict": predicted["changes"],
        "changes of map": mapped["changes"],
    }


@pytest.fixture
def pause(tmp_path: Path) -> Callable[[], tuple[str, Callable[[], object], Callable[[], object]]]:
    """Makes the name of a meeting point, and functions that wait for a process there and let it go on."""
    numbers = count()

    def make() -> tuple[str, Callable[[], object], Callable[[], object]]:
        name = str(tmp_path / f"pause-{next(numbers)}")
        reached, go = Path(f"{name}.reached"), Path(f"{name}.go")
        os.mkfifo(reached)
        os.mkfifo(go)
        return name, reached.read_text, partial(go.write_text, "go")

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def left_behind(folder: Path) -> set[str]:
    """What lies in a folder besides outputs and the record."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {*OUTPUTS, f"{FOLDER}/site/record.json"}


def files_of_map(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def bands_done(folder: Path) -> set[int]:
    return {int(path.stem.removeprefix("row-")) for path in (folder / FOLDER).glob("*/*/row-*.json")}


def test_a_run_killed_at_any_change_to_a_file_goes_on(
    nursery: Nursery, scene: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    for change in range(1, expected["changes of map"] + 1, 4):
        out, log = tmp_path / str(change) / "map.tif", tmp_path / f"{change}.log"
        killed = nursery.run("run_map", scene=scene, out=out, stops={"change": change})
        assert killed["status"] == -9
        done = bands_done(out.parent)
        finished = out.exists() and not list(out.parent.glob(f"{FOLDER}/*/[!.]*/plan.json"))
        again = nursery.run("run_map", scene=scene, out=out, log=log)
        assert again["status"] == 0, again
        assert out.read_bytes() == expected["map"]
        computed = Log(log).counts()
        undone = (not finished and row not in done for row in range(len(ROWS)))
        assert all(computed[number] == here for here, row in zip(undone, ROWS, strict=True) for number in row)
        assert files_of_map(out.parent) == {"map.tif", f"{FOLDER}/map.tif/record.json"}


def test_a_run_killed_while_it_finishes_goes_on(
    nursery: Nursery, scene: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    last = expected["changes of predict"]
    for change in range(last - 24, last + 1):
        out, log = tmp_path / str(change), tmp_path / f"{change}.log"
        assert nursery.run("run_predict", scene=scene, out=out, stops={"change": change})["status"] == -9
        again = nursery.run("run_predict", scene=scene, out=out, log=log)
        assert again["status"] == 0, again
        assert again["tiles"] == 6
        assert files(out) == expected["predict"]
        assert not Log(log).counts()
        assert not left_behind(out)


@pytest.mark.parametrize("tile", [1, 4, 6])
def test_a_run_killed_in_the_model_goes_on(
    nursery: Nursery, scene: Path, expected: dict[str, Any], tmp_path: Path, tile: int
) -> None:
    out, first, second = tmp_path / "out", tmp_path / "first.log", tmp_path / "second.log"
    assert nursery.run("run_predict", scene=scene, out=out, log=first, stops={"tile": tile})["status"] == -9
    done = bands_done(out)
    again = nursery.run("run_predict", scene=scene, out=out, log=second)
    assert again["status"] == 0, again
    assert files(out) == expected["predict"]
    assert Log(second).counts() == TILES - Counter(number for row in done for number in ROWS[row])
    assert not left_behind(out)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tile": 32}, "tile 64 where this one has 32"),
        ({"overlap": 8}, "overlap 16 where this one has 8"),
        ({"batch_size": 2}, "batch_size 1 where this one has 2"),
        ({"creation_options": {"COMPRESS": "LZW"}}, "creation_options"),
        ({"nodata": 7}, "scene"),
        ({"scores": True}, "outputs"),
    ],
)
def test_a_changed_option_is_named(
    nursery: Nursery, scene: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    out = tmp_path / "out"
    assert nursery.run("run_predict", scene=scene, out=out, stops={"tile": 5})["status"] == -9
    done = bands_done(out)
    refused = nursery.run("run_predict", scene=scene, out=out, **changed)
    assert refused["status"] == 1
    assert "holds an interrupted run" in refused["error"]
    assert said in refused["error"]
    assert "--no-resume" in refused["error"]
    assert bands_done(out) == done


@pytest.mark.parametrize("settings", [{"resume": False}, {"overwrite": True, "tile": 32, "overlap": 8}])
def test_without_resume_or_to_overwrite_other_options_a_run_begins_anew(
    nursery: Nursery, scene: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    assert nursery.run("run_predict", scene=scene, out=out, stops={"tile": 6})["status"] == -9
    assert bands_done(out)
    again = nursery.run("run_predict", scene=scene, out=out, log=log, **settings)
    assert again["status"] == 0, again
    assert Log(log).counts().total() == again["tiles"] >= 6
    assert not left_behind(out)


def test_a_run_at_work_refuses_other_options_and_shares_with_the_same(
    nursery: Nursery, scene: Path, expected: dict[str, Any], tmp_path: Path, pause: Any
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    name, reached, go = pause()
    first = nursery.start("run_predict", scene=scene, out=out, log=log, stops={"tile": 3, "pause": name})
    reached()
    for settings in ({"tile": 32}, {"tile": 32, "overwrite": True}, {"tile": 32, "resume": False}):
        refused = nursery.run("run_predict", scene=scene, out=out, **settings)
        assert refused["status"] == 1
        assert "another run with" in refused["error"]
        assert "is at work on" in refused["error"]
    late = [nursery.start("run_predict", scene=scene, out=out, log=log, resume=resume) for resume in (True, False)]
    while len(list(out.rglob("worker-*.lease"))) < 3:
        os.sched_yield()
    go()
    results = [nursery.wait(pid) for pid in (first, *late)]
    assert [result["status"] for result in results] == [0, 0, 0], results
    assert {result["tiles"] for result in results} == {6}
    assert files(out) == expected["predict"]
    assert Log(log).counts() == TILES
    assert not left_behind(out)


@pytest.mark.parametrize("copies", [2, 4])
@pytest.mark.parametrize("function", ["run_predict", "run_map"])
def test_copies_of_one_call_share_the_work(
    nursery: Nursery, scene: Path, expected: dict[str, Any], tmp_path: Path, pause: Any, copies: int, function: str
) -> None:
    out = tmp_path / "out" / "map.tif" if function == "run_map" else tmp_path / "out"
    log = tmp_path / "log"
    # All have begun before the first one goes on, so that none comes when all is done.
    meetings = [pause() for _ in range(copies)]
    running = [
        nursery.start(function, scene=scene, out=out, log=log, stops={"tile": 0, "pause": name})
        for name, _, _ in meetings
    ]
    for _, reached, _ in meetings:
        reached()
    for _, _, go in meetings:
        go()
    results = [nursery.wait(pid) for pid in running]
    assert [result["status"] for result in results] == [0] * copies, results
    assert Log(log).counts() == TILES
    if function == "run_predict":
        assert files(out) == expected["predict"]
        assert not left_behind(out)
    else:
        assert out.read_bytes() == expected["map"]
        assert files_of_map(out.parent) == {"map.tif", f"{FOLDER}/map.tif/record.json"}


def test_torchrun_needs_nothing_but_copies(scene: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    ended = subprocess.run(
        [*launcher, geo_processes.__file__, scene, out, log], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count('"tiles": 6') == 2
    assert files(out) == expected["predict"]
    assert Log(log).counts() == TILES


def test_others_take_over_from_a_killed_process(
    nursery: Nursery, scene: Path, expected: dict[str, Any], tmp_path: Path, pause: Any
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    name, reached, go = pause()
    # The one that is to go on has a row in hand while the other one is killed in another.
    first = nursery.start("run_predict", scene=scene, out=out, log=log, stops={"tile": 1, "pause": name})
    reached()
    killed_log = tmp_path / "killed.log"
    killed = nursery.start("run_predict", scene=scene, out=out, log=killed_log, stops={"tile": 1})
    assert nursery.wait(killed)["status"] == -9
    go()
    assert nursery.wait(first)["status"] == 0
    assert files(out) == expected["predict"]
    assert Log(log).counts() == TILES
    assert Log(killed_log).counts().total() == 1
    assert not left_behind(out)


def test_a_row_that_others_have_finished_stays_as_it_is(tmp_path: Path) -> None:
    place = Workspace(tmp_path, "x", ["x.tif"])
    with enter(place, Plan({}, {})) as late, enter(place, Plan({}, {})) as other:
        assert late.claim("row-000000")
        drafts = []
        for work, text in ((other, "other"), (late, "late")):
            drafts.append(work.draft("row-000000.raw"))
            drafts[-1].write_text(text)
        # The other one has taken it over and is done when the first goes on.
        other.finish("row-000000", {"of": "other"}, {"row-000000.raw": drafts[0]})
        late.finish("row-000000", {"of": "late"}, {"row-000000.raw": drafts[1]})
        assert late.entry("row-000000") == {"of": "other"}
        assert (late.folder / "row-000000.raw").read_text() == "other"
        assert not drafts[1].exists()
        write_one(other)


def test_a_stopped_process_does_not_hold_up_the_others(
    nursery: Nursery, scene: Path, expected: dict[str, Any], tmp_path: Path, pause: Any
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    name, reached, go = pause()
    first = nursery.start("run_predict", scene=scene, out=out, log=log, stops={"tile": 3, "pause": name})
    reached()
    os.kill(first, signal.SIGSTOP)
    second = nursery.run("run_predict", scene=scene, out=out, log=log, leases_after=(0.3, 0.5))
    assert second["status"] == 0, second
    assert files(out) == expected["predict"]
    os.kill(first, signal.SIGCONT)
    go()
    assert nursery.wait(first)["status"] == 0
    assert files(out) == expected["predict"]
    assert not left_behind(out)


def test_many_short_runs_begin_and_end_at_once(nursery: Nursery, tmp_path: Path) -> None:
    scene = write_places(tmp_path / "site.tif", 40, 40)
    out, log = tmp_path / "out", tmp_path / "log"
    running = []
    for number in range(24):
        # Every fourth is killed at some step of its own.
        stops = {"change": 1 + number * 2} if number % 4 == 0 else {}
        running.append(nursery.start("run_predict", scene=scene, out=out, log=log, stops=stops))
    results = [nursery.wait(pid) for pid in running]
    assert {result["status"] for result in results} <= {0, -9}, results
    assert nursery.run("run_predict", scene=scene, out=out)["status"] == 0
    killed = sum(result["status"] == -9 for result in results)
    assert 1 <= Log(log).counts()[1] <= 1 + killed
    assert not left_behind(out)


def test_a_scene_without_data_is_refused_by_all_copies(nursery: Nursery, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "site.tif", np.zeros((1, 100, 100), np.int32), nodata=0)
    out = tmp_path / "out"
    running = [nursery.start("run_map", scene=scene, out=out / "map.tif") for _ in range(3)]
    for pid in running:
        result = nursery.wait(pid)
        assert result["status"] == 1
        assert "NoData everywhere" in result["error"] or "ended without outputs" in result["error"]
    assert not list(out.rglob("*"))


@pytest.mark.parametrize(
    "name",
    ["a [b]*?.tif", " ", "-x.tif", "'q\" $(echo)\n.tif", "ünï😀.tif", "plan.json", "record.json", ".hidden", "n" * 240],
)
def test_any_name_of_an_output(tmp_path: Path, name: str) -> None:
    place = Workspace(tmp_path / "out", name, [f"{name}.tif"])
    plan = Plan({"a": 1}, {})

    def make(staging: Path) -> dict[str, Any]:
        (staging / f"{name}.tif").write_text("made")
        return {"made": 1}

    with suppress(KeyboardInterrupt), enter(place, plan) as work:
        work.finish("row-000000", {}, {})
        raise KeyboardInterrupt
    with enter(place, plan) as work:
        assert work.entry("row-000000") == {}
        assert work.conclude(make) == {"made": 1}
    with enter(place, plan) as work:
        assert work.result == {"made": 1}
    assert (tmp_path / "out" / f"{name}.tif").read_text() == "made"


def enter(place: Workspace, plan: Plan, **options: bool | str) -> Any:
    return place.open(plan, **({"resume": True, "overwrite": False} | options))


def write_one(work: Work, text: str = "new") -> dict[str, Any]:
    def make(staging: Path) -> dict[str, Any]:
        (staging / "x.tif").write_text(text)
        return {}

    return work.conclude(make)


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "{}", '{"plan": [], "outputs": 3, "result": {}}', "[" * 5000, "\x00", "HALF", "OUTPUTS", "RESULT"],
)
def test_a_record_that_is_damaged_counts_for_nothing(tmp_path: Path, text: str) -> None:
    place, plan = Workspace(tmp_path, "x", ["x.tif"]), Plan({}, {})
    with enter(place, plan) as work:
        write_one(work)
    record = tmp_path / FOLDER / "x" / "record.json"
    whole = record.read_text()
    changes = {"OUTPUTS": {"outputs": [3]}, "RESULT": {"result": [1]}}
    damaged = json.dumps(json.loads(whole) | changes[text]) if text in changes else text
    record.write_text(whole[: len(whole) // 2] if text == "HALF" else damaged)
    with pytest.raises(GeoError, match=r"x\.tif exists already"), enter(place, plan, campaign="c"):
        pass
    with enter(place, plan, overwrite=True) as work:
        write_one(work)
    assert record.read_text() == whole


def test_a_folder_in_place_of_the_record_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / FOLDER / "x" / "record.json").mkdir(parents=True)
    with (
        pytest.raises(GeoError, match=r"record\.json is a folder"),
        enter(Workspace(tmp_path, "x", ["x.tif"]), Plan({}, {})),
    ):
        pass


@pytest.mark.parametrize("text", ['{"hash": "", "options": [], "choices": {}}', "[" * 5000, "[]"])
def test_a_plan_that_is_damaged_is_none_of_ours(tmp_path: Path, text: str) -> None:
    folder = tmp_path / FOLDER / "x" / "0123456789ab"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(text)
    with enter(Workspace(tmp_path, "x", ["x.tif"]), Plan({"a": 1}, {})) as work:
        write_one(work)
    assert (folder / "plan.json").read_text() == text


def test_an_output_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    place = Workspace(tmp_path, "x", ["x.tif"])
    with enter(place, Plan({}, {})) as work:
        (tmp_path / "x.tif").write_text("of somebody else")
        with pytest.raises(GeoError, match=r"x\.tif exists already"):
            write_one(work)
    assert (tmp_path / "x.tif").read_text() == "of somebody else"
    with enter(place, Plan({}, {}), overwrite=True) as work:
        write_one(work)
    assert (tmp_path / "x.tif").read_text() == "new"


def test_a_process_that_comes_back_late_harms_nothing(tmp_path: Path) -> None:
    place = Workspace(tmp_path, "x", ["x.tif"])
    with enter(place, Plan({"tile": 1}, {})) as late:
        assert late.claim("row-000000")
        draft = late.draft("row-000000.raw")
        draft.write_text("old")
        # As if it had slept so long that others took it for gone, and finished, and began something else.
        with enter(place, Plan({"tile": 1}, {})) as other:
            write_one(other)
        with suppress(KeyboardInterrupt), enter(place, Plan({"tile": 2}, {}), overwrite=True) as newer:
            newer.finish("row-000001", {"of": "newer"}, {})
            assert late.gone
            assert not late.claim("row-000002")
            with pytest.raises(FileNotFoundError):
                late.finish("row-000000", {"of": "late"}, {"row-000000.raw": draft})
            assert write_one(late) == {}
            raise KeyboardInterrupt
    assert (tmp_path / "x.tif").read_text() == "new"
    with enter(place, Plan({"tile": 2}, {}), overwrite=True) as newer:
        assert newer.entry("row-000000") is None
        assert newer.entry("row-000001") == {"of": "newer"}


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    scene = write_places(tmp_path / "site.tif", 20, 20)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(GeoError, match=r"cannot write to folder .*out \(Permission denied\); choose another output"):
        predict(scene, tmp_path / "out", PlaceModel(), settings=Settings(formats=["tif"]))


def test_a_full_disk_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_places(tmp_path / "site.tif", HEIGHT, WIDTH)
    finish = Work.finish

    def no_space(work: Work, unit: str, *arguments: Any) -> None:
        if unit == "row-000001":
            raise OSError(28, "No space left on device")
        finish(work, unit, *arguments)

    monkeypatch.setattr(Work, "finish", no_space)
    with pytest.raises(GeoError, match=r"the disk of .*out is full; free some space and start again"):
        map_raster(lambda images: images, scene, tmp_path / "out" / "map.tif", tile=64, overlap=16)
    assert bands_done(tmp_path / "out") == {0}
    assert not (tmp_path / "out" / "map.tif").exists()
    monkeypatch.undo()
    result = map_raster(lambda images: images, scene, tmp_path / "out" / "map.tif", tile=64, overlap=16)
    assert result.times is not None
    assert result.times.tiles == 4


@pytest.mark.parametrize("named", [True, False])
def test_a_full_disk_of_a_cache_is_not_taken_for_that_of_the_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    scene = write_places(tmp_path / "site.tif", HEIGHT, WIDTH)
    cache = tmp_path / "cache"
    cache.mkdir()

    def write_to_cache(images: Any) -> Any:
        raise OSError(28, "No space left on device", *([str(cache / "kernel.nbi")] if named else []))

    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=0 if path == str(cache) else 9**9))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
    with pytest.raises(GeoError, match=rf"the disk of {cache} is full; free some space and start again"):
        map_raster(write_to_cache, scene, tmp_path / "out" / "map.tif", tile=64, overlap=16)


def test_a_full_disk_while_outputs_are_made_names_their_folder(tmp_path: Path) -> None:
    def make(staging: Path) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with (
        enter(Workspace(tmp_path, "x", ["x.tif"]), Plan({}, {})) as work,
        pytest.raises(GeoError, match=rf"the disk of {tmp_path} is full"),
    ):
        work.conclude(make)
