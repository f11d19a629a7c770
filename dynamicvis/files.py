"""Files that are whole or absent, names that are safe, folders without what systems leave in them, and text."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamicvis.text import is_hidden_character

# pyogrio, by which GeoPandas opens vector files, takes these for a part of an address and finds no file.
_NOT_OPENED = set("/\\;!")
_NOT_ON_WINDOWS = set('<>:"|?*')
# Name of a draft of `replacing`: a dot and a random UUID, of version 4.
_DRAFT = re.compile(r"\.[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}")
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\.|$)", re.I)


def safe_name(text: str, *, windows: bool = os.name == "nt") -> str:
    """One component of a path, of any text that came from outside.

    Printable characters stay as they are, but for a few: ``_`` takes the place of slashes and backslashes, of ``;`` and
    ``!``, for which GeoPandas would not find the file, of dots at the beginning (so that there is no ``..`` and no
    hidden file), of control and bidirectional characters, of those without width but for the joiners that some scripts
    need, and of bytes that were no UTF-8. Its length is not limited: see `room_for_names`. The result of a safe name is
    that name.

    Args:
        text: such as the stem of a file, or an identifier.
        windows: also replace what Windows does not allow: ``< > : " | ? *``, names of devices, and dots and spaces at
            the end.
    """

    def unsafe(character: str) -> bool:
        return character in _NOT_OPENED or is_hidden_character(character) or (windows and character in _NOT_ON_WINDOWS)

    name = "".join("_" if unsafe(character) else character for character in text)
    if windows:
        name = re.sub(r"[. ]+$", lambda end: "_" * len(end[0]), name)
        if _DEVICE.match(name):
            name = f"_{name}"
    return re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), name) or "_"


def same_name_key(name: str) -> str:
    """Equal for names that some file system takes for one: those that differ in case or in how accents are coded."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def room_for_names(folder: Path) -> tuple[int, int]:
    """Bytes that a name may have in a folder, and a whole path; the folder need not exist yet."""
    existing = next((parent for parent in (folder, *folder.absolute().parents) if os.path.isdir(parent)), Path("/"))  # noqa: PTH112 - Path.is_dir raises for names that are too long
    try:
        return os.pathconf(existing, "PC_NAME_MAX"), os.pathconf(existing, "PC_PATH_MAX") - 1
    except (AttributeError, OSError, ValueError):  # Windows, or a file system that does not tell
        return 255, 259 if os.name == "nt" else 4095


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; after the block that file takes the place of ``path``.

    It is brought to the disk first, so that ``path`` is the old file or the whole new one whenever the process or the
    machine stops. When the block raises, ``path`` is as it was and nothing is left beside it. The new file has the
    permissions of any new file.

    Args:
        path: file to write; its folder exists.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    # A short name of its own: the path's own name may be as long as the file system allows.
    draft = path.with_name(f".{uuid.uuid4().hex}{path.suffix[:16]}")
    try:
        yield draft
        sync_file(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_drafts(folder: Path, suffixes: Collection[str]) -> None:
    """Remove what `replacing` was writing in a folder when its process was killed.

    Only while nothing else writes there. A draft is told by its name, which is a random identifier behind a dot.

    Args:
        folder: to look in, not below.
        suffixes: of the files that are written there.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if _DRAFT.fullmatch(path.stem) and path.suffix in suffixes and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Bring the content of a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# UTF-32 first: its mark for little-endian text begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | Path) -> str:
    """Text of a file with lines that end in a line feed, in UTF-8, or in what its byte order mark says.

    Windows' editors and PowerShell put such marks before UTF-8 and UTF-16; the mark is no part of the text.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is no such text; ``str`` of the error names the byte.
    """
    content = Path(path).read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    text = content.decode(encoding)
    if "\0" in text:
        where = text.index("\0")
        raise UnicodeDecodeError(encoding, content, where, where + 1, "a zero: UTF-16 without its mark, or no text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


_LEFT_BY_SYSTEMS = {".ds_store", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir"}


def is_left_by_system(name: str) -> bool:
    """Whether operating systems leave files or folders of this name beside a user's own.

    Such as ``.DS_Store`` and ``Thumbs.db``; and ``._NAME`` and ``__MACOSX`` of macOS, which look like other files.
    """
    return name.startswith("._") or name.casefold() in _LEFT_BY_SYSTEMS


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: a hidden one, or one that `is_left_by_system`."""
    return name.startswith(".") or is_left_by_system(name)


def listing(folder: str | Path, pattern: str = "*") -> list[Path]:
    """Files and folders below a folder that fit a pattern, sorted, without those that `is_hidden` names or that lie in
    such a folder; none where there is no such folder.

    Args:
        folder: to look into; hidden or not.
        pattern: as of ``Path.glob``.

    Raises:
        OSError: the folder may not be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    os.scandir(folder).close()  # `Path.glob` finds nothing in a folder that may not be read, and does not say so
    return sorted(path for path in folder.glob(pattern) if not any(map(is_hidden, path.relative_to(folder).parts)))


def occupy_standard_streams() -> None:
    """Open the null device in the place of standard streams that are closed (``2>&-``).

    The next file to be opened would get such a stream's number, and what a library prints would go into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
