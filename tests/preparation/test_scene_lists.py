from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from scene_layouts import write_scenes
from tools_helpers import tool

from dynamicvis.data.preparation.scenes import AID_CLASSES, UCMERCED_CLASSES


@pytest.fixture(scope="module")
def ucmerced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ucmerced") / "Images"
    write_scenes(folder, UCMERCED_CLASSES, "{cls}{index:02d}.tif", per_class=10, size=4)
    (folder / "forest" / "Thumbs.db").touch()
    return folder


def prepare(source: Path, out: Path, *options: str, name: str = "ucmerced") -> int:
    return tool("prepare_data")([name, "--source", str(source), "--out", str(out), *options])


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_every_class_is_split_by_the_papers_fractions(ucmerced, tmp_path, capsys):
    assert prepare(ucmerced, tmp_path / "splits") == 0
    assert "train 126, val 21, trainval 147, test 63" in capsys.readouterr().out
    parts = {name: lines(tmp_path / "splits" / f"{name}.txt") for name in ("train", "val", "trainval", "test")}
    for name, count in (("train", 6), ("val", 1), ("test", 3)):
        assert Counter(line.split("/")[0] for line in parts[name]) == dict.fromkeys(UCMERCED_CLASSES, count)
    assert sorted(parts["trainval"]) == sorted(parts["train"] + parts["val"])
    everything = [f"{path.parent.name}/{path.name}" for path in ucmerced.glob("*/*.tif")]
    assert sorted(parts["trainval"] + parts["test"]) == sorted(everything)


def test_the_seed_decides(ucmerced, tmp_path):
    for out, seed in (("first", "0"), ("again", "0"), ("other", "1")):
        assert prepare(ucmerced, tmp_path / out, "--seed", seed) == 0
    first, again, other = (lines(tmp_path / out / "test.txt") for out in ("first", "again", "other"))
    assert first == again
    assert first != other
    # Classes are not all split alike.
    numbers = {cls: {line[-6:] for line in first if line.startswith(f"{cls}/")} for cls in UCMERCED_CLASSES}
    assert len({frozenset(chosen) for chosen in numbers.values()}) > 5


def test_fractions_are_options(ucmerced, tmp_path):
    assert prepare(ucmerced, tmp_path / "out", "--train-fraction", "0.5", "--val-fraction", "0.4") == 0
    assert [len(lines(tmp_path / "out" / f"{name}.txt")) for name in ("train", "val", "test")] == [63, 42, 105]


def test_aid_halves_its_classes(tmp_path):
    write_scenes(tmp_path / "AID", AID_CLASSES, "{cls}_{index}.jpg", per_class=4, size=4)
    assert prepare(tmp_path / "AID", tmp_path / "splits", name="aid") == 0
    assert [len(lines(tmp_path / "splits" / f"{name}.txt")) for name in ("trainval", "test")] == [60, 60]


def test_errors_say_what_is_wrong(ucmerced, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare(tmp_path / "absent", out) == 1
    assert "absent is no folder; --source is the folder" in capsys.readouterr().err
    assert prepare(ucmerced.parent, out) == 1
    assert "lacks the folder of class 'agricultural' (21 of 21 are missing)" in capsys.readouterr().err
    assert prepare(ucmerced, out, "--train-fraction", "1.0") == 1
    assert "--train-fraction must lie between 0 and 1, got 1.0" in capsys.readouterr().err
    assert prepare(ucmerced, out, "--train-fraction", "0.04") == 1
    assert "agricultural holds 10 images, too few" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_is_no_class_is_named(tmp_path, capsys):
    write_scenes(tmp_path / "AID", (*AID_CLASSES, "Volcano"), "{index}.jpg", per_class=4, size=4)
    assert prepare(tmp_path / "AID", tmp_path / "splits", name="aid") == 1
    assert "Volcano is no class of this data set" in capsys.readouterr().err
