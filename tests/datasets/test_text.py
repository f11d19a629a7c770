"""Lists, tables, JSON and XML as they come from Windows, macOS, and by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamicvis.data.raster import DataError
from dynamicvis.data.text import read_json, read_lines, read_rows, read_xml

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]  # with a mark but for the first


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_are_no_part_of_the_text(tmp_path: Path, encoding: str, newline: str) -> None:
    path = tmp_path / "a"

    def write(text: str) -> Path:
        path.write_text(text, encoding=encoding, newline=newline)
        return path

    assert read_lines(write("Größe.png\n\n b\n")) == ["Größe.png", "", "b", ""]
    assert list(read_rows(write('a,"b, c"\n\nd,é\n'))) == [(1, ["a", "b, c"]), (3, ["d", "é"])]
    assert read_json(write('{"é": [1,\n2]}')) == {"é": [1, 2]}
    if encoding != "utf-32":  # which XML does not know
        assert read_xml(write("<a>\n<b>é</b></a>")).findtext("b") == "é"


def test_xml_in_the_encoding_that_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes('<?xml version="1.0" encoding="ISO-8859-1"?><a>é</a>'.encode("latin-1"))
    assert read_xml(path).text == "é"


@pytest.mark.parametrize("content", ["Größe".encode("latin-1"), b"\xff\xfea", "ab".encode("utf-16-le"), b"\0"])
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    for read in (read_lines, read_json, lambda path: list(read_rows(path))):
        with pytest.raises(DataError, match=r"list.txt is no text in UTF-8 \(.* at byte \d.*; save it as UTF-8$"):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<a>", r"a.xml cannot be read as XML \(no element found"),
        (b'<?xml version="1.0" encoding="gbk"?><a/>', "a.xml cannot be read as XML .* save it as UTF-8"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "a.xml cannot be read as XML"),
        (b"", "a.xml cannot be read as XML"),
    ],
)
def test_damaged_xml_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_xml(path)


def test_damaged_json_and_csv_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in ("[", "[" * 100_000, ""):
        path.write_text(content)
        with pytest.raises(DataError, match="a cannot be read as JSON"):
            read_json(path)
    path.write_text(f'x\n"{"y" * 200_000}"\n')
    with pytest.raises(DataError, match="a, line 2, cannot be read as CSV"):
        list(read_rows(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for read in (read_lines, read_json, read_xml):
        with pytest.raises(DataError, match=r"none does not exist"):
            read(tmp_path / "none")
        with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
            read(tmp_path)
