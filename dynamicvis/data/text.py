"""Text that comes with a data set: lists, tables, JSON and XML, as any tool on any system saves them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dynamicvis.data.raster import DataError
from dynamicvis.files import read_text


def read_lines(path: str | Path) -> list[str]:
    """Lines of a text file, without blanks around them; empty ones too, so that line numbers are indices plus one.

    Raises:
        DataError: it is missing, or no text.
    """
    return [line.strip() for line in _text(path).split("\n")]


def read_json(path: str | Path) -> Any:
    """Content of a JSON file.

    Raises:
        DataError: it is missing, no text, or no JSON.
    """
    text = _text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); get or make it anew") from error


def read_rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a table in CSV that are not empty, each with the number of its line.

    Raises:
        DataError: it is missing, no text, or no table.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}, cannot be read as CSV ({error}); correct it") from error


def read_xml(path: str | Path) -> ElementTree.Element:
    """Root of an XML file, in whatever encoding it declares.

    Raises:
        DataError: it is missing or damaged, or in an encoding that the parser does not know.
    """
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path} cannot be read as XML ({error}); get it anew, or save it as UTF-8") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def read_voc(path: str | Path) -> ElementTree.Element:
    """Root of a file of PASCAL VOC, whose objects are its elements ``object``.

    Raises:
        DataError: it is another kind of XML, in which no object would be found; and see `read_xml`.
    """
    root = read_xml(path)
    if root.tag != "annotation":
        raise DataError(f"{path} begins with <{root.tag}>, and PASCAL VOC with <annotation>; convert or correct it")
    return root


def _text(path: str | Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}, read as {error.encoding}); save it as "
            "UTF-8"
        ) from error


def _unreadable(path: str | Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path} does not exist; put it there, or name another")
    return DataError(f"{path} cannot be read ({error.strerror or error}); check the file and its permissions")
