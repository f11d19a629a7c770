"""Opening rasters of unknown origin: a file is opened as what it is, and opens nothing that its name does not announce.

GDAL decides by the content what a file is. A VRT or a description of a web map service that is called ``x.tif`` would
make it open any other file, or an address. Hence these rules, for all readers of the package:

- a file is opened as one of the formats that hold their own pixels, whatever its name;
- formats that refer to other files are opened when the suffix says so: ``.vrt``, ``.xml``, ``.safe`` and ``.dim`` of
  satellite products, ``.nc``, ``.h5`` and their kin, ``.gpkg``, ``.mbtiles``;
- a local file never makes the network be used, whatever it is called and whatever it refers to;
- side files with overviews (``.ovr``) and masks (``.msk``) are TIFFs, and no other file holds the overviews;
- a name of GDAL's own with a driver or a file system in front (``NETCDF:...``, ``vrt://...``, ``/vsicurl/...``) and an
  address are opened as given: whoever writes ``vrt://mosaic.vrt`` trusts all that the mosaic refers to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
from rasterio._path import _parse_path, _vsi_path
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from dynamicvis.errors import DynamicVisError

# Formats whose files hold their own pixels. RMF, XYZ, PCRaster and PCIDSK are left out: GDAL reads what such a file
# lacks at its end as zeros. What GDAL as installed does not know is left aside.
_SELF_CONTAINED = (
    *("GTiff", "PNG", "JPEG", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2Lura", "JPEGXL", "JPEGLS", "WEBP"),
    *("GIF", "BIGGIF", "BMP", "PNM", "TGA", "SGI", "HEIF", "AVIF", "EXR", "FITS", "DDS", "KTX2", "BASISU", "ECW"),
    *("MrSID", "HFA", "NITF", "ENVI", "EHdr", "AAIGrid", "AIG", "GRASSASCIIGrid", "GSAG", "GSBG", "GS7BG", "SAGA"),
    *("DTED", "USGSDEM", "SRTMHGT", "GRIB", "RST", "BT", "LCP", "ISG", "GTX", "NTv2", "HF2", "ACE2"),
    *("BYN", "SIGDEM", "ESAT", "BSB", "AirSAR", "COSAR", "ROI_PAC", "ISCE"),
)
_PRODUCTS = ("SENTINEL2", "SAFE", "DIMAP", "RS2", "TSX", "ESAT")
_SCIENTIFIC = ("netCDF", "HDF5", "HDF5Image", "HDF4", "HDF4Image", "BAG")
# Formats that refer to other files, or whose inner workings may, by the suffix that has to announce them.
_ANNOUNCED: dict[str, tuple[str, ...]] = {
    ".vrt": ("VRT",),
    **dict.fromkeys((".xml", ".safe", ".dim"), _PRODUCTS),
    **dict.fromkeys((".nc", ".nc4", ".h5", ".he5", ".hdf5", ".hdf", ".hdf4", ".bag", ".cdf"), _SCIENTIFIC),
    ".gpkg": ("GPKG",),
    ".mbtiles": ("MBTiles",),
}
# GDAL fetches only this file name, which no address has, and through a proxy of a kind that does not exist.
_NO_NETWORK = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "a local file uses no network",
    "GDAL_HTTP_PROXY": "none://a-local-file-uses-no-network",
    "GDAL_HTTPS_PROXY": "none://a-local-file-uses-no-network",
}
# A VRT may hold Python code, and bands of raw bytes of any file.
_NO_CODE = {"GDAL_VRT_ENABLE_PYTHON": "NO", "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "SIBLING_OR_CHILD_OF_VRT_PATH"}

_NETWORK = re.compile(
    r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)(_streaming)?(/|\?)|\b[a-z][a-z0-9+.-]*://|^\\\\", re.IGNORECASE
)
_PREFIX = re.compile(r"([A-Za-z]\w+):")
_ARCHIVES = ("/vsizip/", "/vsitar/", "/vsigzip/", "/vsi7z/", "/vsirar/")
# What a VRT may name with a driver in front: parts of a local file.
_PARTS = (
    "GTIFF_DIR",
    "GTIFF_RAW",
    "NETCDF",
    "HDF5",
    "HDF4_SDS",
    "HDF4_EOS",
    "NITF_IM",
    "SENTINEL2_L1C",
    "SENTINEL2_L2A",
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KINDS = {
    "vrtdataset": "a virtual raster (VRT)",
    "gdal_wms": "the description of a web map service",
    "wcs_gdal": "the description of a web coverage service",
    "gdaltileindexdataset": "a tile index",
    "mrf_meta": "the description of an MRF",
}
_FILE_ITEMS = ("OVERVIEW_FILE", "X_DATASET", "Y_DATASET")  # metadata that name files
_SOURCES = ("sourcefilename", "sourcedataset")
_DESCRIPTIVE = ("srs", "description", "categorynames", "unittype", "gcplist", "histograms", "mdi")
_LARGEST_LISTING = 1000  # files of a folder up to which GDAL lists it (GDAL_READDIR_LIMIT_ON_OPEN)
_DEEPEST = 8  # virtual rasters within virtual rasters
_LARGEST_VRT = 256 << 20  # bytes


class RasterFileError(DynamicVisError):
    """A raster that is not opened, for what it is or refers to; the message is one sentence."""


def opening_options(path: str) -> dict[str, str]:
    """Settings of GDAL under which a raster is opened and read; the environment may allow Python code in a VRT.

    For local files of a format that refers to others they keep GDAL from the network.
    """
    options = {name: value for name, value in _NO_CODE.items() if name not in os.environ}
    name = _gdal_name(path)
    refers = (name.startswith("/vsi") and not name.startswith("/vsimem/")) or _announced(name) or _has_driver(name)
    # vrt:// counts as an address: the user trusts what the raster refers to.
    return options | _NO_NETWORK if refers and not _NETWORK.search(name) else options


def open_raster(path: str | Path) -> Any:
    """A raster as `rasterio.open` opens it for reading, under the rules of this module.

    Call it, and read, under `opening_options`, or use `reading`.

    Raises:
        RasterFileError: the file is of a format that its name does not announce, or refers to what it must not.
        RasterioError: GDAL cannot open it.
    """
    path = str(path)
    name = _gdal_name(path)
    if _has_driver(name) or (name.startswith("/vsi") and _NETWORK.search(name) and _suffix(name) in _ANNOUNCED):
        return rasterio.open(path)
    local = Path(name) if not name.startswith("/vsi") and Path(name).is_file() else None
    if local is None and not name.startswith("/vsi") and Path(name).exists() and not Path(name).is_dir():
        raise RasterFileError(f"{path} is a pipe or a device and no file; save what it gives as a file")
    if local is not None:
        _check_side_files(local)
        if _suffix(name) == ".vrt":
            _check_vrt(local, path, 0, set())
    elif name.startswith(_ARCHIVES) and _suffix(name) == ".vrt":
        raise RasterFileError(f"{path} is a virtual raster in an archive; unpack the archive and give the .vrt in it")
    # With a folder before it, neither the name of a file nor a name that stands in it is taken for one with a driver.
    target = str(local.absolute()) if local is not None else path
    try:
        dataset = DatasetReader(_parse_path(target), driver=[*_SELF_CONTAINED, *_announced(name)])
    except RasterioError:
        if local is not None:
            _refuse_disguised(local, path)
        raise
    other = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")
    if other is not None and not (local and _is_own_pyramid(other, local)):
        dataset.close()
        raise RasterFileError(
            f"{path} says that its overviews are in another file ({other[:80]}), which is not opened; remove the "
            "metadata item OVERVIEW_FILE, or write the file anew with `gdal_translate`"
        )
    return dataset


@contextmanager
def reading(path: str | Path, **options: str) -> Iterator[Any]:
    """A raster, open under `opening_options` and further settings of GDAL while the block runs; see `open_raster`."""
    with rasterio.Env(**opening_options(str(path)), **options), open_raster(path) as dataset:
        yield dataset


def _gdal_name(path: str) -> str:
    """What GDAL is given for a path or an address as rasterio takes it."""
    return str(_vsi_path(_parse_path(path)))


def _suffix(name: str) -> str:
    path = Path(name.partition("?")[0] if _NETWORK.search(name) else name)
    return path.with_suffix("").suffix.lower() if path.suffix.lower() in (".gz", ".bz2") else path.suffix.lower()


def _announced(name: str) -> tuple[str, ...]:
    return _ANNOUNCED.get(_suffix(name), ())


def _has_driver(name: str) -> bool:
    """Whether a name begins with a driver of GDAL, as ``NETCDF:``, and is no file."""
    return _PREFIX.match(name) is not None and not Path(name).exists()


def _check_side_files(file: Path) -> None:
    """Refuse overviews and masks beside a file, and beside these, that GDAL would open as something else than TIFF."""
    checked, waiting = {file}, [file]
    while waiting:
        for beside in set(_side_files(waiting.pop())) - checked:
            checked.add(beside)
            waiting.append(beside)
            try:
                # A TIFF by its first bytes: GDAL, which opens side files itself, goes by these, too.
                sound = _head(beside).startswith(_TIFF)
                if sound:
                    with DatasetReader(_parse_path(str(beside.absolute())), driver=["GTiff"]) as dataset:
                        sound = "OVERVIEW_FILE" not in dataset.tags(ns="OVERVIEWS")
            except RasterioError:
                sound = False
            if not sound:
                raise RasterFileError(
                    f"{beside} is no TIFF with pixels of its own, as overviews and masks are; remove it to read {file}"
                )


def _side_files(file: Path) -> list[Path]:
    """Overviews and masks that GDAL would find beside a file: in a folder that is not too large, in any letter case."""
    names = {f"{stem}{suffix}" for stem in (file.name, file.stem) for suffix in (".ovr", ".OVR", ".msk", ".MSK")}
    with os.scandir(file.parent) as entries:
        siblings = [entry.name for entry in islice(entries, _LARGEST_LISTING + 1)]
    if len(siblings) <= _LARGEST_LISTING:
        lowered = {name.lower() for name in names}
        names = {name for name in siblings if name.lower() in lowered}
    return [file.with_name(name) for name in sorted(names - {file.name}) if file.with_name(name).is_file()]


def _is_own_pyramid(other: str, file: Path) -> bool:
    """Whether overviews lie in the file of the same name in which ERDAS and ArcGIS keep them."""
    name = other.removeprefix(":::BASE:::")
    beside = file.with_name(name) if other != name and Path(name).name == name else None
    return (
        beside is not None
        and beside.stem in (file.stem, file.name)
        and beside.is_file()
        and _head(beside).startswith(b"EHFA_HEADER_TAG")
    )


def _head(file: Path, size: int = 512) -> bytes:
    with file.open("rb") as opened:
        return opened.read(size)


def _text_head(file: Path) -> str:
    """The first characters of a text, without a byte order mark and white space."""
    head = _head(file)
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return head.decode(encoding, errors="replace").lstrip()


def _refuse_disguised(file: Path, path: str) -> None:
    """Say what a file is that only another name would open."""
    head = _text_head(file)
    if head.startswith("<"):
        root = re.search(r"<([A-Za-z]\w*)", head)
        kind = _KINDS.get(root[1].lower() if root else "", "an XML file")
        if kind == _KINDS["vrtdataset"]:
            raise RasterFileError(
                f"{path} is {kind} by its content and not by its name; it opens other files, so if you trust it, name "
                f"it {file.stem}.vrt"
            )
        raise RasterFileError(
            f"{path} is {kind}, which may open other files or addresses; save what it shows as a GeoTIFF with "
            "`gdal_translate`"
        )
    if head.startswith("{"):
        raise RasterFileError(f"{path} is a JSON file, which may open other files; give the rasters that it names")
    for magic, kind, suffix in (
        (b"\x89HDF", "an HDF5 or netCDF file", ".nc or .h5"),
        (b"CDF", "a netCDF file", ".nc"),
        (b"SQLite format 3", "a database", ".gpkg or .mbtiles"),
    ):
        if _head(file).startswith(magic) and file.suffix.lower() not in suffix:
            raise RasterFileError(
                f"{path} is {kind} by its content and not by its name; it may open other files, so if you trust it, "
                f"name it with the suffix {suffix}"
            )


def _check_vrt(file: Path, path: str, depth: int, seen: set[Path]) -> None:
    """Refuse a virtual raster that refers to the network, to what is no raster, or to a file that is not there."""
    if depth > _DEEPEST:
        raise RasterFileError(f"{path} is nested more than {_DEEPEST} virtual rasters deep; `gdal_translate` it first")
    if file.resolve() in seen or not _text_head(file).startswith("<"):
        return  # GDAL takes what is no XML for what it is.
    seen.add(file.resolve())
    if file.stat().st_size > _LARGEST_VRT:
        raise RasterFileError(f"{file} is larger than {_LARGEST_VRT >> 20} MiB; `gdal_translate` it in parts")
    content = file.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise RasterFileError(f"{file} defines entities, which no virtual raster needs; write it anew")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise RasterFileError(
            f"{file} is no XML ({error}), so what it refers to is not known; write it anew"
        ) from error
    names: dict[tuple[str, bool], None] = {}
    for element in root.iter():
        tag, text = _bare(element.tag), (element.text or "").strip()
        values = {_bare(name): value.strip() for name, value in element.attrib.items()}
        if tag == "mdi" and values.get("key", "").upper() in _FILE_ITEMS:
            names[text, False] = None
        elif tag in _SOURCES:
            names[text, values.get("relativetovrt", "0") == "1"] = None
        elif tag not in _DESCRIPTIVE:
            for value in (text, *values.values()):
                if _NETWORK.search(value):
                    names[value, False] = None
    for name, relative in names:
        _check_source(name, relative, file, path, depth, seen)


def _check_source(name: str, relative: bool, file: Path, path: str, depth: int, seen: set[Path]) -> None:
    shown = name if len(name) <= 120 else f"{name[:117]}..."
    trust = f"if you trust it, give it as vrt://{path}"
    refers = f"{path if depth == 0 else file} refers to {shown}"
    if _NETWORK.search(name):
        raise RasterFileError(
            f"{refers}, and a local file does not use the network; give that address itself, or, {trust}"
        )
    prefix = _PREFIX.match(name)
    place = file.parent / name if relative else Path(name)
    if name.startswith("<") or (prefix and prefix[1].upper() not in _PARTS and not place.exists()):
        raise RasterFileError(f"{refers}, which is no raster file; {trust}")
    if name.startswith("/vsi"):
        if not name.startswith(_ARCHIVES):
            raise RasterFileError(f"{refers}, which is no raster file; {trust}")
        return
    if prefix and not place.exists():
        return
    if not place.exists():
        raise RasterFileError(
            f"{refers}, which does not exist (looked for at {place}); bring it back, or build the "
            "mosaic anew without it"
        )
    if not (place.is_file() or place.is_dir()):  # a pipe, from which GDAL would wait for bytes, or a device
        raise RasterFileError(f"{refers}, which is no raster file; {trust}")
    if place.is_file():
        if place.suffix.lower() == ".vrt":
            _check_vrt(place, path, depth + 1, seen)
        elif _text_head(place).startswith(("<", "{")):
            raise RasterFileError(f"{refers}, which is a text that may open other files; {trust}")


def _bare(tag: Any) -> str:
    """A name as GDAL compares it: without letter case, and without a namespace."""
    return str(tag).rpartition("}")[2].rpartition(":")[2].lower()
