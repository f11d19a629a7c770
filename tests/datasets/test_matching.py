from __future__ import annotations

from pathlib import Path

import pytest

from dynamicvis.data.matching import match_by_name, read_names
from dynamicvis.data.raster import DataError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder, suffix in ((images, ".JPG"), (masks, ".png")):
        folder.mkdir()
        for name in ("b", "a.1"):
            (folder / f"{name}{suffix}").touch()
        (folder / "a.1.png.aux.xml").touch()
    return images, masks


def test_pairs_in_the_order_of_names(folders: tuple[Path, Path]) -> None:
    pairs = match_by_name(*folders)
    assert [(image.name, mask.name) for image, mask in pairs] == [("a.1.JPG", "a.1.png"), ("b.JPG", "b.png")]


def test_a_list_chooses(folders: tuple[Path, Path], tmp_path: Path) -> None:
    names = tmp_path / "val.txt"
    names.write_text("b.tif\n\na.1\n")
    assert read_names(names) == ["b", "a.1"]
    assert [image.stem for image, _ in match_by_name(*folders, ["b"])] == ["b"]


def test_what_is_missing_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = folders
    with pytest.raises(DataError, match=r"val\.txt names c, which .*images lacks"):
        match_by_name(images, masks, ["c"], "val.txt")
    with pytest.raises(DataError, match=r"val\.txt is empty"):
        match_by_name(images, masks, [], "val.txt")
    with pytest.raises(DataError, match=r"train\.txt does not exist"):
        read_names(tmp_path / "train.txt")
    (masks / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.JPG has no mask: .*masks lacks b"):
        match_by_name(images, masks)
    with pytest.raises(DataError, match=r"absent is no folder"):
        match_by_name(tmp_path / "absent", masks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no image"):
        match_by_name(tmp_path / "empty", masks)


def test_two_files_of_one_name_are_refused(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.tif").touch()
    with pytest.raises(DataError, match=r"b\.JPG and b\.tif have one name"):
        match_by_name(*folders)
