"""Polygons as vector files: GeoPackage, GeoJSON, FlatGeobuf and GeoParquet, written a batch at a time."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.scene.georeference import Georeference, to_map
from dynamicvis.geo.scene.ground import Ground, decimals_of
from dynamicvis.geo.scene.surface import Plane

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}
_ROW_GROUP = 65536  # rows of a row group of GeoParquet, at most but for a larger batch
_ROW_GROUP_BYTES = 1 << 26
# GeoPackage holds the time of its last change. A fixed one keeps equal results equal byte for byte.
_NO_DATE = "1970-01-01T00:00:00.000Z"
_END_OF_GEOJSON = b"]\n}\n"
# Prefixes and names of tables that GeoPackage, SQLite, GDAL and QGIS keep for themselves.
_RESERVED = re.compile(r"(v?gpkg|sqlite_|rtree_)|(layer_styles|ogr_empty_table|qgis_projects)$", re.I)
# What pyogrio takes for a part of an address, and GDAL for the end of a folder.
_MISREAD = re.compile(r"[\x00-\x1f;!\\]")


@dataclass(frozen=True)
class Features:
    """A batch of polygons with their attributes.

    Attributes:
        polygons: (N,) shapely polygons or multipolygons in pixel coordinates of the scene (x = column, y = row, from
            its top left corner), valid.
        labels: (N,) indices into the classes.
        scores: (N,) 0 to 1; NaN is written as null.
        columns: further attributes by name: numbers (N,), or vectors (N, D), which GeoParquet alone can hold.
    """

    polygons: NDArray[np.object_]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    columns: Mapping[str, NDArray[Any]] = field(default_factory=lambda: MappingProxyType({}))

    def __len__(self) -> int:
        return len(self.polygons)

    def take(self, chosen: NDArray[Any]) -> Features:
        """Those that a mask or index array (M,) chooses."""
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return Features(self.polygons[chosen], self.labels[chosen], self.scores[chosen], columns)


def box_features(boxes: NDArray[np.float64], scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Features:
    """Rectangles of boxes (N, 4): left, top, right, bottom in pixels."""
    left, top, right, bottom = boxes.T
    return Features(np.atleast_1d(shapely.box(left, top, right, bottom)), labels, scores)


def write_vectors(
    path: str | Path,
    batches: Iterable[Features],
    georeference: Georeference,
    classes: Sequence[str],
    *,
    multi: bool = False,
    layer: str | None = None,
    notes: list[str] | None = None,
) -> int:
    """Write polygons in the format that the suffix names, a batch in memory at a time.

    ``.gpkg``, ``.fgb`` and ``.parquet`` (GeoParquet 1.1) hold the scene's CRS; ``.geojson`` follows RFC 7946:
    EPSG:4326, longitude first, 7 decimals or as many as an eightieth of a pixel needs, cut at the antimeridian, along
    the parallel of 90 degrees around a pole, with further points where an edge is curved by more than a fiftieth of a
    pixel. Attributes are ``id`` (1 to N in the order given), ``class``, ``score`` (4 decimals), ``area_m2`` (on the
    ellipsoid; 3 decimals, below 1 four digits) and the batches' own columns. A scene without a CRS gives pixel
    coordinates and null areas. What reaches beyond the part of the map that lies on the globe, such as a pixel at the
    rim of a full disk, has no area; in GeoJSON it is clipped to that part, or left out if nothing remains. The features
    of FlatGeobuf are sorted by place, for its index. Beside the batch, GDAL keeps some 300 bytes per feature of
    ``.fgb`` and ``.geojson``, and the index of ``.gpkg`` up to a bound of its own; ``.parquet`` keeps nothing. Equal
    input gives equal bytes.

    The file appears when it is whole: after an error, a file of an earlier run is as it was.

    Args:
        path: file to write or to replace.
        batches: all with the same columns.
        georeference: of the scene.
        classes: names that the labels point to.
        multi: declare and write multipolygons, also for polygons of one part. Needed when some have more.
        layer: what the layer is called, where the format has a name for it; by default after the file, by `layer_name`.
        notes: sentences on what has no area, or is clipped or left out, are added to it.

    Returns:
        Number of polygons written.

    Raises:
        GeoError: an unknown suffix, a CRS that the format cannot hold, vectors in a format that cannot hold them, or
            the file cannot be written.
        ValueError: polygons of several parts without ``multi``.
    """
    path = Path(path)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        known = ", ".join(VECTOR_SUFFIXES)
        raise GeoError(f"{path.name} has no suffix of a vector format; name it with one of {known}")
    stream = _Stream(batches, georeference, classes, multi, path, layer_name(path.stem) if layer is None else layer)
    try:
        with tempfile.TemporaryDirectory(prefix=".dynamicvis-", dir=path.parent) as folder:
            staged = Path(folder) / f"layer{path.suffix.lower()}"
            try:
                with _as_gdal_reads(staged) as readable:
                    write(readable, stream)
            except Exception as error:
                # What a batch raised reaches us as an error of Arrow's or GDAL's.
                if stream.error is not None:
                    raise stream.error from None
                if isinstance(error, OSError | RuntimeError | sqlite3.Error | pa.ArrowException):
                    raise _cannot_be_written(path, str(error).replace(str(staged), path.name)) from error
                raise
            staged.replace(path)
    except OSError as error:
        raise _cannot_be_written(path, error.strerror or error) from error
    if notes is not None:
        notes += [note for note in stream.notes() if note not in notes]
    return stream.count


def layer_name(name: str) -> str:
    """A name for a layer, of any text, that no SQL of a GeoPackage stumbles over.

    It begins with a letter, a digit or ``_``, has no quotes, brackets, semicolons, backslashes or control characters,
    and is none of the names that GeoPackage and its readers keep for themselves. Others stay as they are.
    """
    layer = "".join("_" if not one.isprintable() or one in "\"'`;[]\\" else one for one in name)
    if not re.match(r"\w", layer) or _RESERVED.match(layer):
        layer = f"layer_{layer.lstrip('_')}"
    return layer


@contextmanager
def _as_gdal_reads(path: Path) -> Iterator[Path]:
    """The path, or another one to the same place where pyogrio or GDAL would take a part of it for something else."""
    folder = path.parent.absolute()  # a relative path may begin like an address
    if _MISREAD.search(str(folder)) is None:
        yield folder / path.name
        return
    with tempfile.TemporaryDirectory() as other:
        (Path(other) / "folder").symlink_to(folder, target_is_directory=True)
        yield Path(other) / "folder" / path.name


def check_georeference(georeference: Georeference, suffixes: Sequence[str]) -> None:
    """Refuse a georeference that vectors cannot be written for, by making some of it in every format, in memory.

    Args:
        georeference: of the scene, with its shape.
        suffixes: of the formats.

    Raises:
        GeoError: the CRS has no surface or no point of the scene an image on it, or a format cannot hold the CRS.
    """
    georeference.check()
    height, width = georeference.shape or (1, 1)
    whole = box_features(np.array([[0, 0, width, height]], np.float64), np.ones(1), np.zeros(1, np.int64))
    for suffix in suffixes:
        path = Path(f"{Path(georeference.name).stem}{suffix}")
        if suffix == ".geojson":
            _refuse_other_surfaces(path, georeference)
        stream = _Stream([whole], georeference, ("",), False, path, "layer")
        stream.lonlat = suffix == ".geojson"
        try:
            if suffix in _DRIVERS:
                _write_gdal(BytesIO(), _DRIVERS[suffix], stream, {})
            else:
                json.dumps(_geo_metadata(stream, _CORNERS))
        except (RuntimeError, CPLE_BaseError, CRSError) as error:
            if stream.error is not None:
                raise stream.error from None
            raise GeoError(
                f"{georeference.name}: the CRS '{georeference.surface.name}' cannot be written to {suffix} ({error}); "
                "choose another format by --format or the suffix of --out"
            ) from error


class _Stream:
    """Batches of features as record batches of Arrow.

    Attributes:
        error: what the source of the batches raised.
        layer: what the layer is called.
        count, bounds, kinds: of the features handed out so far; bounds in map coordinates.
        lonlat: hand out longitude and latitude, cut at the antimeridian, instead of map coordinates.
    """

    def __init__(
        self,
        batches: Iterable[Features],
        georeference: Georeference,
        classes: Sequence[str],
        multi: bool,
        path: Path,
        layer: str,
    ) -> None:
        self._batches = iter(batches)
        self._classes = np.array([*classes], dtype=object)
        self.georeference = georeference
        self.multi = multi
        self.path = path
        self.layer = layer
        self.error: Exception | None = None
        self.count, self._next = 0, 1
        self.kinds: set[str] = set()
        self.lonlat = False
        self._clipped, self._left_out = 0, 0
        self.bounds: NDArray[np.float64] | None = None
        self._first = next(self._batches, None)
        further = {} if self._first is None else self._first.columns
        self.fields = [
            pa.field("id", pa.int64()),
            pa.field("class", pa.string()),
            pa.field("score", pa.float64()),
            pa.field("area_m2", pa.float64()),
            *(pa.field(name, _arrow_type(values)) for name, values in further.items()),
        ]
        self.vectors = [name for name, values in further.items() if values.ndim > 1]

    def schema(self, *further: pa.Field) -> pa.Schema:
        return pa.schema([*self.fields, *further, pa.field("geometry", pa.binary())])

    def notes(self) -> list[str]:
        """Sentences on features that were not handed out as they are."""
        notes = []
        if self._clipped:
            notes.append(
                f"{self.georeference.name}: {self._clipped} of {self.count + self._left_out} features reach beyond the "
                "part of the map that lies on the globe: their area_m2 is null, and GeoJSON holds the part that does"
            )
        if self._left_out:
            notes.append(
                f"{self.georeference.name}: {self._left_out} features have no part on the globe, or are too small for "
                "its coordinates: GeoJSON leaves them out"
            )
        return notes

    def records(
        self, further: Callable[[NDArray[np.object_]], list[pa.Array]] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Record batches; ``further`` gives columns from polygons (N,)."""
        try:
            batch, self._first = self._first, None
            while batch is not None:
                if len(batch):
                    yield self._record(batch, further)
                batch = next(self._batches, None)
        except Exception as error:
            self.error = error
            raise

    def _record(
        self, batch: Features, further: Callable[[NDArray[np.object_]], list[pa.Array]] | None
    ) -> pa.RecordBatch:
        georeference = self.georeference
        measured = np.full(len(batch), np.nan)
        ids = np.arange(self._next, self._next + len(batch))
        self._next += len(batch)
        polygons = None
        if georeference.crs is not None:
            ground = Ground(batch.polygons, georeference)
            measured = ground.areas
            self._clipped += int(ground.clipped.sum())
            if self.lonlat:
                polygons = ground.polygons(decimals_of(georeference))
                kept = ~shapely.is_empty(polygons)
                if not kept.all():
                    self._left_out += int((~kept).sum())
                    polygons, measured, ids, batch = polygons[kept], measured[kept], ids[kept], batch.take(kept)
        if polygons is None:
            polygons = shapely.transform(batch.polygons, lambda points: to_map(points, georeference.affine))
            polygons = shapely.orient_polygons(polygons)
        several = shapely.get_type_id(polygons) == shapely.GeometryType.MULTIPOLYGON
        if self.multi:
            parts, owner = shapely.get_parts(polygons, return_index=True)
            polygons = shapely.multipolygons(parts, indices=owner, out=np.full(len(polygons), shapely.MultiPolygon()))
        elif several.any() and not self.lonlat:
            raise ValueError("polygons of several parts need multi=True")
        self.kinds.add("MultiPolygon" if self.multi else "Polygon")
        bounds = shapely.total_bounds(polygons)
        if self.bounds is not None:
            bounds = np.array([*np.fmin(self.bounds[:2], bounds[:2]), *np.fmax(self.bounds[2:], bounds[2:])])
        self.bounds = bounds
        columns = [
            pa.array(ids),
            pa.array(self._classes[batch.labels], pa.string()),
            _numbers(batch.scores.round(4)),
            _numbers(round_areas(measured)),
            *(_numbers(batch.columns[column.name]) for column in self.fields[4:]),
            *(further(polygons) if further else []),
            pa.array(shapely.to_wkb(polygons), pa.binary()),
        ]
        self.count += len(batch)
        names = [*(column.name for column in self.fields), *(["bbox"] if further else []), "geometry"]
        return pa.RecordBatch.from_arrays(columns, names)


def round_areas(areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square metres (N,) to 3 decimals, and below 1 to four digits."""
    size = np.abs(areas)
    small = (size < 1) & (size > 0)
    rounded = areas.round(3)
    scale = 10.0 ** (3 - np.floor(np.log10(size[small])))
    rounded[small] = np.round(areas[small] * scale) / scale
    return rounded


def _arrow_type(values: NDArray[Any]) -> pa.DataType:
    scalar = pa.from_numpy_dtype(values.dtype)
    return scalar if values.ndim == 1 else pa.list_(scalar, values.shape[1])


def _numbers(values: NDArray[Any]) -> pa.Array:
    """Numbers (N,) with null for NaN, or vectors (N, D) as they are."""
    if values.ndim == 1:
        return pa.array(values, from_pandas=True)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _write_geopackage(path: Path, stream: _Stream) -> None:
    import pyogrio

    undefined_cartesian = {"SRID": "-1"} if stream.georeference.crs is None else {}
    date = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": date or _NO_DATE})
    try:
        _write_gdal(path, _DRIVERS[".gpkg"], stream, {"GEOMETRY_NAME": "geom", **undefined_cartesian})
        _check_geopackage(path, stream)
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": date})


def _write_flatgeobuf(path: Path, stream: _Stream) -> None:
    _write_gdal(path, _DRIVERS[".fgb"], stream, {})
    _check_flatgeobuf(path, stream.count)


def _write_geojson(path: Path, stream: _Stream) -> None:
    georeference = stream.georeference
    decimals = written = 7
    if georeference.crs is not None:
        _refuse_other_surfaces(path, georeference)
        stream.lonlat, decimals = True, decimals_of(georeference)
        # GDAL takes 00000x and 99999x at the end of a number for noise, and drops it: corners of small pixels would
        # meet, unless more digits follow.
        written = min(decimals + 4, 15)
    # Longitudes and latitudes are given as they are to be: what GDAL would do for RFC 7946 is done.
    _write_gdal(path, _DRIVERS[".geojson"], stream, {"RFC7946": "NO", "COORDINATE_PRECISION": str(written)})
    if written != decimals:
        _state_resolution(path, written, decimals)
    _check_geojson(path)


def _state_resolution(path: Path, written: int, decimals: int) -> None:
    """Put the resolution of the coordinates at the head of a GeoJSON file that was written with more decimals."""
    with path.open("r+b") as file:
        head = file.read(4096)
        position = head.find(f'"xy_coordinate_resolution": 1e-{written:02}'.encode())
        if position >= 0:
            file.seek(head.index(b"1e-", position))
            file.write(f"1e-{decimals:02}".encode())


def _refuse_other_surfaces(path: Path, georeference: Georeference) -> None:
    surface = georeference.surface
    other = ", ".join(suffix for suffix in VECTOR_SUFFIXES if suffix != ".geojson")
    if isinstance(surface, Plane):
        reason = f"the CRS '{surface.name}' is a local (engineering) one without a place on the Earth"
    elif surface.body:
        reason = f"the CRS '{surface.name}' is of another celestial body ('{surface.body}') than the Earth"
    else:
        return
    raise GeoError(
        f"{path.name} cannot be written for {georeference.name}: GeoJSON holds longitude and latitude on the Earth, "
        f"and {reason}; choose another format ({other}) by --format or the suffix of --out"
    )


def _write_gdal(
    path: Path | BytesIO,
    driver: str,
    stream: _Stream,
    layer_options: dict[str, str],
) -> None:
    import pyogrio.raw

    if stream.vectors:
        raise GeoError(f"{stream.path.name} cannot hold the vectors of column '{stream.vectors[0]}'; name it .parquet")
    crs = None if stream.lonlat else stream.georeference.crs
    reader = pa.RecordBatchReader.from_batches(stream.schema(), stream.records())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        pyogrio.raw.write_arrow(
            reader,
            path,
            layer=stream.layer,
            driver=driver,
            geometry_name="geometry",
            geometry_type="MultiPolygon" if stream.multi else "Unknown" if stream.lonlat else "Polygon",
            crs=None if crs is None else crs.to_wkt(version="WKT2_2019"),
            layer_options=layer_options,
        )


def _check_geopackage(path: Path, stream: _Stream) -> None:
    """Raise if the file is not whole: GDAL keeps silent on a disk that is full when it closes a file."""
    with closing(sqlite3.connect(path)) as database:
        (written,) = database.execute(f"SELECT count(*) FROM {_quoted(stream.layer)}").fetchone()
        index = database.execute(
            "SELECT 1 FROM sqlite_master WHERE name = ?", (f"rtree_{stream.layer}_geom",)
        ).fetchone()
    if written != stream.count or index is None:
        raise OSError("its end is missing")


def _check_geojson(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - len(_END_OF_GEOJSON), 0))
        if file.read() != _END_OF_GEOJSON:
            raise OSError("its end is missing")


def _check_flatgeobuf(path: Path, count: int) -> None:
    import pyogrio.raw

    if count and len(pyogrio.raw.read(path, fids=[count - 1])[2]) != 1:
        raise OSError("its end is missing")


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _write_parquet(path: Path, stream: _Stream) -> None:
    from pyarrow import parquet

    bbox = pa.struct([pa.field(corner, pa.float64()) for corner in _CORNERS])

    def boxes(polygons: NDArray[np.object_]) -> list[pa.Array]:
        columns = [pa.array(values) for values in shapely.bounds(polygons).T]
        return [pa.StructArray.from_arrays(columns, fields=list(bbox))]

    schema = stream.schema(pa.field("bbox", bbox))
    with parquet.ParquetWriter(path, schema, compression="zstd", write_page_index=True) as writer:
        waiting: list[pa.RecordBatch] = []
        for record in stream.records(further=boxes):
            waiting.append(record)
            rows = sum(part.num_rows for part in waiting)
            if rows >= _ROW_GROUP or sum(part.nbytes for part in waiting) >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(waiting, schema), _ROW_GROUP)
                waiting = []
        writer.write_table(pa.Table.from_batches(waiting, schema), _ROW_GROUP)
        writer.add_key_value_metadata({"geo": json.dumps(_geo_metadata(stream, _CORNERS))})


def _geo_metadata(stream: _Stream, corners: Sequence[str]) -> dict[str, Any]:
    """Metadata of a GeoParquet file, specification 1.1.0."""
    crs = stream.georeference.crs
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(stream.kinds),
        "crs": None if crs is None else crs.to_dict(projjson=True),
        "edges": "planar",
        "orientation": "counterclockwise",
        "covering": {"bbox": {corner: ["bbox", corner] for corner in corners}},
    }
    if stream.bounds is not None:
        column["bbox"] = stream.bounds.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _cannot_be_written(path: Path, reason: object) -> GeoError:
    return GeoError(f"{path.name} cannot be written ({reason}); check the folder and its free space")


_WRITERS: dict[str, Callable[[Path, _Stream], None]] = {
    ".gpkg": _write_geopackage,
    ".geojson": _write_geojson,
    ".fgb": _write_flatgeobuf,
    ".parquet": _write_parquet,
}
VECTOR_SUFFIXES = tuple(_WRITERS)
