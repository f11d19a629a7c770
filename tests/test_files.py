"""Files that are whole or absent."""

import stat

import pytest

from dynamicvis.files import read_text, replacing


def test_a_file_appears_whole_and_with_the_usual_permissions(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    with replacing(path) as draft:
        draft.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    usual = tmp_path / "usual"
    usual.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "usual"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as draft:  # noqa: PT012 - what is written before counts
        draft.write_text("half")
        raise OSError("disk is full")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_text_is_read_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Größe\n", encoding="utf-8-sig")
    assert read_text(path) == "Größe\n"
