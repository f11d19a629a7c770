"""GeoTIFF in, GeoTIFF and vector files out: any model over any scene, in bounded memory, without seams.

Names are imported on first use, so that ``import dynamicvis.geo`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamicvis.geo.batch import Outcome, estimate_scenes, run_scenes
    from dynamicvis.geo.errors import GeoError
    from dynamicvis.geo.layers import ClassLayer, ObjectLayer, ValueLayer
    from dynamicvis.geo.mapping import MapResult, map_raster
    from dynamicvis.geo.models import load_model
    from dynamicvis.geo.pair import ScenePair
    from dynamicvis.geo.polygons import class_polygons
    from dynamicvis.geo.prediction import (
        Estimate,
        PredictResult,
        Request,
        detect_change,
        embed,
        estimate,
        predict,
        run,
    )
    from dynamicvis.geo.preview import write_preview
    from dynamicvis.geo.quicklook import write_quicklook
    from dynamicvis.geo.ray_engine import run_scenes_on_ray
    from dynamicvis.geo.runs.settings import Settings
    from dynamicvis.geo.scenes import SceneRef, find_scenes
    from dynamicvis.geo.source import Scene
    from dynamicvis.geo.tiles import Extent, Grid, Tile, cell_grid, tile_grid
    from dynamicvis.geo.vectors import Features, Place, write_vectors
    from dynamicvis.tile_model import TileModel, TileObjects, TileOutputs

_MODULES = {
    "ClassLayer": "layers",
    "Estimate": "prediction",
    "Extent": ".tiling",
    "Features": "vectors",
    "GeoError": "errors",
    "Grid": "tiles",
    "MapResult": "mapping",
    "ObjectLayer": "layers",
    "Outcome": "batch",
    "Place": "vectors",
    "PredictResult": "prediction",
    "Request": "prediction",
    "Scene": "source",
    "ScenePair": "pair",
    "SceneRef": "scenes",
    "Settings": "runs.settings",
    "Tile": "tiles",
    "TileModel": ".tile_model",
    "TileObjects": ".tile_model",
    "TileOutputs": ".tile_model",
    "ValueLayer": "layers",
    "cell_grid": "tiles",
    "class_polygons": "polygons",
    "detect_change": "prediction",
    "embed": "prediction",
    "estimate": "prediction",
    "estimate_scenes": "batch",
    "find_scenes": "scenes",
    "load_model": "models",
    "map_raster": "mapping",
    "predict": "prediction",
    "run": "prediction",
    "run_scenes": "batch",
    "run_scenes_on_ray": "ray_engine",
    "tile_grid": "tiles",
    "write_preview": "preview",
    "write_quicklook": "quicklook",
    "write_vectors": "vectors",
}

__all__ = [
    "ClassLayer",
    "Estimate",
    "Extent",
    "Features",
    "GeoError",
    "Grid",
    "MapResult",
    "ObjectLayer",
    "Outcome",
    "Place",
    "PredictResult",
    "Request",
    "Scene",
    "ScenePair",
    "SceneRef",
    "Settings",
    "Tile",
    "TileModel",
    "TileObjects",
    "TileOutputs",
    "ValueLayer",
    "cell_grid",
    "class_polygons",
    "detect_change",
    "embed",
    "estimate",
    "estimate_scenes",
    "find_scenes",
    "load_model",
    "map_raster",
    "predict",
    "run",
    "run_scenes",
    "run_scenes_on_ray",
    "tile_grid",
    "write_preview",
    "write_quicklook",
    "write_vectors",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
