"""GeoTIFF in, objects on a map out: windowed reading, tiling, merging, vector files and a quicklook.

Names are imported on first use, so that ``import dynamicvis.geo`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamicvis.geo.detect import Detections, Detector, detect_objects
    from dynamicvis.geo.errors import GeoError
    from dynamicvis.geo.layers import ClassLayer, ObjectLayer, ValueLayer
    from dynamicvis.geo.pipeline import DetectionModel, PredictResult, load_model, predict
    from dynamicvis.geo.preview import write_preview
    from dynamicvis.geo.quicklook import write_quicklook
    from dynamicvis.geo.sinks import write_geojson, write_geopackage
    from dynamicvis.geo.source import Scene
    from dynamicvis.geo.tiles import Extent, Tile, tile_grid

_MODULES = {
    "ClassLayer": "layers",
    "DetectionModel": "pipeline",
    "Detections": "detect",
    "Detector": "detect",
    "Extent": "tiles",
    "GeoError": "errors",
    "ObjectLayer": "layers",
    "PredictResult": "pipeline",
    "Scene": "source",
    "Tile": "tiles",
    "ValueLayer": "layers",
    "detect_objects": "detect",
    "load_model": "pipeline",
    "predict": "pipeline",
    "tile_grid": "tiles",
    "write_geojson": "sinks",
    "write_geopackage": "sinks",
    "write_preview": "preview",
    "write_quicklook": "quicklook",
}

__all__ = [
    "ClassLayer",
    "DetectionModel",
    "Detections",
    "Detector",
    "Extent",
    "GeoError",
    "ObjectLayer",
    "PredictResult",
    "Scene",
    "Tile",
    "ValueLayer",
    "detect_objects",
    "load_model",
    "predict",
    "tile_grid",
    "write_geojson",
    "write_geopackage",
    "write_preview",
    "write_quicklook",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
