"""From what stands on a command line to scenes: files, folders, patterns, lists, STAC items, remote paths."""

from __future__ import annotations

import glob
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from dynamicvis.files import listing, read_text, safe_name, same_name_key
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.scene.reading import is_remote

if TYPE_CHECKING:
    from dynamicvis.geo.scene.source import Scene
    from dynamicvis.model_card import ModelCard

# Of a folder only what is a scene for certain: no virtual files, whose parts may lie beside them, and no pictures.
_RASTERS = {".tif", ".tiff", ".jp2", ".img"}
_SIDE_CARS = (".aux.xml", ".ovr", ".msk")
_STAC = {".json", ".geojson"}
_STANDARD_ASSETS = ("visual", "data")


@dataclass(frozen=True)
class SceneRef:
    """A scene that was asked for, not opened yet.

    Attributes:
        path: what GDAL opens.
        name: stem of the files written for it, a safe one (`dynamicvis.files.safe_name`); no other scene of the run has
            it.
        problem: a sentence that says why there is no such scene, None if nothing is known against it.
    """

    path: str
    name: str
    problem: str | None = None

    def open(self, card: ModelCard | None = None, **options: Any) -> Scene:
        """Open it; see `Scene` for the options.

        Raises:
            GeoError: the problem, or what `Scene` finds.
        """
        from dynamicvis.geo.scene.source import Scene

        if self.problem is not None:
            raise GeoError(self.problem)
        return Scene(self.path, card, **options)


@dataclass(frozen=True)
class _Found:
    path: str
    stem: str
    folders: tuple[str, ...]  # that tell it from another scene of this stem, nearest first
    problem: str | None = None


def find_scenes(arguments: Sequence[str | Path], *, asset: str | None = None) -> list[SceneRef]:
    """All scenes that some arguments name, each once, in the order given (within a folder or pattern, sorted).

    An argument is a raster file or anything else that GDAL opens (a remote path, a file in an archive); a folder: the
    ``.tif``, ``.tiff``, ``.jp2`` and ``.img`` files right in it; a pattern with ``*``, ``?``, ``[...]`` or ``**``; a
    text list (``.txt``) of all these, one a line, relative to the list, with ``#`` before remarks; a STAC item or item
    collection (``.json``, ``.geojson``), local or remote. Whether a file named on its own exists is found out when it
    is opened, so that one missing scene does not stop the others.

    Scenes are named after their files (items by their id), less what `dynamicvis.files.safe_name` replaces. Where two
    have one name, both get the names of as many folders before it as it takes to tell them apart: ``a/x.tif`` and
    ``b/x.tif`` are ``a_x`` and ``b_x``.

    Args:
        arguments: at least one.
        asset: key of the asset of a STAC item. By default ``visual``, else ``data``, else its only GeoTIFF.

    Raises:
        GeoError: a folder, pattern, list or item collection without any scene, a JSON file that is no STAC, a missing
            ``pystac``, or names that no folder tells apart.
    """
    found: list[_Found] = []
    seen: set[str] = set()
    for argument in arguments:
        for one in _expand(str(argument), asset, Path()):
            key = one.path if is_remote(one.path) else str(Path(one.path).absolute())
            if one.problem is not None or key not in seen:
                seen.add(key)
                found.append(one)
    return _named(found)


def scene_name(path: str) -> str:
    """What the files of a scene are called when it is the only one."""
    is_local = Path(path).exists() or not (is_remote(path) or path.startswith("/vsi") or re.match(r"\w\w+:", path))
    return safe_name((_local(Path(path)) if is_local else _remote(path)).stem)


def _expand(argument: str, asset: str | None, folder: Path, in_list: bool = False) -> Iterator[_Found]:
    """Scenes of one argument, relative to ``folder``."""
    if "\0" in argument:
        raise GeoError(f"{argument!r} holds a zero byte, which no path has; correct the name or the list")
    if is_remote(argument) or argument.startswith("/vsi"):
        if PurePosixPath(argument.partition("?")[0]).suffix.lower() in _STAC:
            yield from _stac(argument, asset)
        elif "*" in argument:
            raise GeoError(f"{argument}: a pattern cannot be expanded on a remote path; list the files in a .txt file")
        else:
            yield _remote(argument)
        return
    path = folder / argument
    try:
        path.exists()
    except OSError as error:  # such as a name that is too long
        yield _Found(str(path), path.stem, (), f"{path} cannot be looked up ({error.strerror}); check the name")
        return
    if path.is_dir():
        yield from _folder(path)
    elif path.is_file() and path.suffix.lower() == ".txt":
        if in_list:
            raise GeoError(f"{path} is a list named in another list; put its lines there")
        yield from _list(path, asset)
    elif path.is_file() and path.suffix.lower() in _STAC:
        yield from _stac(str(path), asset)
    elif not path.exists() and glob.has_magic(argument):
        yield from _pattern(str(path))
    elif path.exists() or not re.match(r"\w\w+:", argument):
        yield _local(path)
    else:  # a part of a file, such as GTIFF_DIR:2:pages.tif
        yield _remote(argument)


def _local(path: Path) -> _Found:
    return _Found(str(path), path.stem, tuple(reversed(path.absolute().parent.parts[1:])))


def _remote(path: str) -> _Found:
    """A scene by a URL or one of GDAL's own names, which may end in a query."""
    place = path.rpartition("://")[2].partition("?")[0].rstrip("/")
    parts = [unquote(part) for part in re.split(r"[/:]", place) if part]
    stem = PurePosixPath(parts[-1]).stem if parts else "scene"
    return _Found(path, stem, tuple(reversed(parts[:-1])))


def _folder(path: Path) -> Iterator[_Found]:
    files = [file for file in listing(path) if file.suffix.lower() in _RASTERS]
    if not files:
        raise GeoError(f"folder {path} holds no {', '.join(sorted(_RASTERS))} file; name the scenes or give a pattern")
    yield from map(_local, files)


def _pattern(pattern: str) -> Iterator[_Found]:
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = [Path(name) for name in names if not name.endswith(_SIDE_CARS)]
    files = [file for file in files if file.is_file()]
    if not files:
        raise GeoError(f"no file fits the pattern {pattern}; check it, and quote it so that the shell leaves it alone")
    yield from map(_local, files)


def _list(path: Path, asset: str | None) -> Iterator[_Found]:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise GeoError(f"{path} cannot be read as a list of scenes ({error}); write one path a line") from error
    # A line ends at a line feed alone: names may hold what else Python splits lines at.
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise GeoError(f"list {path} names no scene; write one path a line")
    for line in lines:
        yield from _expand(line, asset, path.parent, in_list=True)


def _stac(href: str, asset: str | None) -> Iterator[_Found]:
    try:
        import pystac
    except ModuleNotFoundError as error:
        raise GeoError(f'{href} needs pystac: `pip install "dynamicvis[stac]"`') from error
    location = _as_url(href)
    no_stac = f"{href} is no STAC item or item collection; give one, or the raster itself"
    try:
        content = json.loads(_read_json_text(location))
    except (OSError, ValueError) as error:  # urllib's errors are OSError
        raise GeoError(f"{href} cannot be read as JSON ({error}); check the file or the address") from error
    kind = content.get("type") if isinstance(content, dict) else None
    if kind in ("Catalog", "Collection"):
        raise GeoError(f"{href} is a STAC {kind.lower()}; give its items one by one or as an item collection")
    if kind not in ("Feature", "FeatureCollection"):
        raise GeoError(no_stac)
    if any(link.get("rel") == "next" for link in content.get("links") or [] if isinstance(link, dict)):
        raise GeoError(f"{href} is one page of several; save all of them as one item collection, as pystac-client does")
    try:
        entries = [content] if kind == "Feature" else content["features"]
        items = [pystac.Item.from_dict(entry, preserve_dict=False) for entry in entries]
    except (KeyError, TypeError, AttributeError, ValueError, pystac.STACError, pystac.STACTypeError) as error:
        raise GeoError(no_stac) from error
    if not items:
        raise GeoError(f"{href} is an item collection without items; nothing is left to do")
    for item in items:
        try:
            found = _item(item, location, asset)
        except (TypeError, AttributeError, ValueError) as error:
            raise GeoError(f"{href}: item {item.id!r} cannot be understood ({error}); correct it") from error
        yield found


def _read_json_text(location: str) -> str:
    """Text of a local or remote file, without the byte order mark that pystac would leave."""
    import pystac

    if Path(location).is_file():
        return read_text(location)
    return pystac.StacIO.default().read_text(location).removeprefix("\ufeff")


def _item(item: Any, location: str, asset: str | None) -> _Found:
    import pystac

    collection = item.collection_id
    if not isinstance(item.id, str) or not isinstance(collection, str | None):
        raise TypeError(f"id and collection are texts, not {item.id!r} and {collection!r}")
    stem = re.sub(r"[^\w.+-]+", "_", item.id).strip(".") or "item"
    folders = (collection,) if collection else ()
    keys = list(item.assets)
    rasters = [key for key, value in item.assets.items() if _is_geotiff(value)]
    if asset is not None:
        wanted = asset if asset in keys else None
    else:
        standard = [key for key in _STANDARD_ASSETS if key in keys]
        wanted = standard[0] if standard else rasters[0] if len(rasters) == 1 else None
    if wanted is None:
        lacks = f"no asset '{asset}'" if asset else "none of the assets visual and data, and not just one GeoTIFF"
        problem = f"{location}: item {item.id} has {lacks}; choose one by --asset: {', '.join(keys) or 'it has none'}"
        return _Found(f"{location}#{item.id}", stem, folders, problem)
    # Links of an item are relative to the file that it stands in.
    href = pystac.utils.make_absolute_href(item.assets[wanted].href, location)
    if href.startswith("file://"):
        href = url2pathname(urlsplit(href).path)
    # An item names files and addresses, and none of GDAL's drivers or file systems.
    if not is_remote(href) and (href.startswith(("/vsi", "<")) or re.match(r"\w\w+:", href)):
        problem = (
            f"{location}: asset {wanted} of item {item.id} is no file and no address ({href[:80]}); correct its href"
        )
        return _Found(f"{location}#{item.id}", stem, folders, problem)
    return _Found(href, stem, folders)


def _is_geotiff(asset: Any) -> bool:
    if asset.roles and {"thumbnail", "overview"} & set(asset.roles):
        return False
    media = (asset.media_type or "").lower()
    return media.startswith("image/tiff") or urlsplit(asset.href).path.lower().endswith((".tif", ".tiff"))


def _as_url(href: str) -> str:
    """GDAL's name of a remote file as the address that it stands for."""
    return re.sub(r"^/vsicurl/", "", href) if href.startswith("/vsi") else href


def _named(found: list[_Found]) -> list[SceneRef]:
    """Give each scene a safe name of its own."""
    names = [safe_name(one.stem) for one in found]
    for depth in range(1, 64):
        groups = _groups(names)
        if not groups:
            break
        for group in groups:
            for index in group:
                one = found[index]
                names[index] = safe_name("_".join([*reversed(one.folders[:depth]), one.stem]))
    for group in _groups(names):
        first, second = (found[index].path for index in group[:2])
        raise GeoError(
            f"{first} and {second} would be written under one name ({names[group[0]]}); run them one by one into "
            "folders of their own"
        )
    return [SceneRef(one.path, name, one.problem) for one, name in zip(found, names, strict=True)]


def _groups(names: list[str]) -> list[list[int]]:
    """Indices of names that are one to some file system."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        places[same_name_key(name)].append(index)
    return [group for group in places.values() if len(group) > 1]
