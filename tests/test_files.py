"""Files that are whole or absent, and names."""

import random
import stat
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from dynamicvis.files import listing, read_text, replacing, room_for_names, safe_name, same_name_key
from dynamicvis.text import shown


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


NASTY = "/\\.:;'\"`[](){}<>|?*#%&!~$ -_\0\t\n\r\x1b\x7f\x85\u00ad\u200b\u200e\u202e\u2028\u2066\ufeff\udc80\udcff"
PLAIN = "aZ9é日本ü\u0301\u200d\U0001f333"


def nasty_names(count, seed=0):
    """Names of the worst characters, by a fixed seed."""
    generator = random.Random(seed)
    return ["".join(generator.choices(NASTY + PLAIN, k=generator.randint(0, 12))) for _ in range(count)]


@pytest.mark.parametrize("windows", [False, True])
def test_a_safe_name_is_one_component_whatever_it_is_made_of(tmp_path, windows):
    devices = ["CON", "nul.x", "Com1", "LPT\u00b9", "aux ", "conin$"]
    for text in [*nasty_names(300), "..", "../../x", "", " ", "C:\\x", *devices]:
        name = safe_name(text, windows=windows)
        assert name, text
        assert PurePosixPath(name).name == name
        assert PureWindowsPath(f"./{name}").name == name or not windows
        assert not name.startswith(".")
        assert not set(name) & set("\\;!")
        assert name.encode().decode() == name
        assert all(one.isprintable() or one in "\u200d" for one in name)
        assert safe_name(name, windows=windows) == name
        assert (tmp_path / f"{name}.x").parent == tmp_path
        if windows:
            assert not set(name) & set('<>:"|?*')
            assert name[-1] not in ". "
            assert name.lower() not in ("con", "nul.x", "com1", "lpt\u00b9", "aux", "conin$")


@pytest.mark.parametrize(
    "name", ["site", "it's", 'q"q', "a b.c", "(2) copy", "-dash", "#7", "50%", "日本", "می\u200cخ"]
)
def test_printable_names_stay_as_they_are(name):
    assert safe_name(name, windows=False) == name


def test_names_that_a_file_system_takes_for_one_have_one_key():
    same = ["Straße", "STRASSE", "strasse"], ["\u00e9t\u00c9", "e\u0301te\u0301"]
    for names in same:
        assert len({same_name_key(name) for name in names}) == 1
    assert same_name_key("a") != same_name_key("b")


def test_what_a_terminal_obeys_is_shown_as_an_escape():
    assert shown("a\n\x1b[2J\u202eé\udc80") == r"a\n\x1b[2J\u202eé\udc80"


def test_room_for_names_that_lie_in_folders_that_are_not_there(tmp_path):
    of_name, of_path = room_for_names(tmp_path / ("n" * 300) / "x")
    (tmp_path / ("n" * of_name)).touch()
    with pytest.raises(OSError, match="too long"):
        (tmp_path / ("n" * (of_name + 1))).touch()
    assert of_path > of_name


def test_what_systems_leave_is_not_listed(tmp_path):
    for name in ("b.tif", "a.TIF", "sub/c.tif", "._a.TIF", ".DS_Store", "Thumbs.db", "__MACOSX/b.tif", "sub/._c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in listing(tmp_path)] == ["a.TIF", "b.tif", "sub"]
    assert listing(tmp_path, "**/*.tif") == [tmp_path / "b.tif", tmp_path / "sub" / "c.tif"]
    assert listing(tmp_path, "*/*.tif") == [tmp_path / "sub" / "c.tif"]
    assert listing(tmp_path / "__MACOSX") == [tmp_path / "__MACOSX" / "b.tif"]  # when it is what was asked for
    assert listing(tmp_path / "none") == []
