"""GeoTIFF in, GeoTIFF and vector files out: any model over any scene, in bounded memory, without seams.

Names are imported on first use, so that ``import dynamicvis.geo`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamicvis.geo.errors import GeoError
    from dynamicvis.geo.many import Outcome, estimate_scenes, run_scenes
    from dynamicvis.geo.many_on_ray import run_scenes_on_ray
    from dynamicvis.geo.mapping import MapResult, map_raster
    from dynamicvis.geo.models import load_model
    from dynamicvis.geo.output.vectors import Features, Georeference, write_vectors
    from dynamicvis.geo.pictures.layers import ClassLayer, ObjectLayer, ValueLayer
    from dynamicvis.geo.pictures.preview import write_preview
    from dynamicvis.geo.pictures.quicklook import write_quicklook
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
    from dynamicvis.geo.runs.settings import Settings
    from dynamicvis.geo.scene.finding import SceneRef, find_scenes
    from dynamicvis.geo.scene.pair import ScenePair
    from dynamicvis.geo.scene.source import Scene
    from dynamicvis.geo.stitching.grid import Extent, Grid, Tile, cell_grid, tile_grid
    from dynamicvis.geo.stitching.polygons import class_polygons
    from dynamicvis.tile_model import TileModel, TileObjects, TileOutputs

_MODULES = {
    "ClassLayer": "pictures.layers",
    "Estimate": "prediction",
    "Extent": ".tiling",
    "Features": "output.vectors",
    "GeoError": "errors",
    "Grid": "stitching.grid",
    "MapResult": "mapping",
    "ObjectLayer": "pictures.layers",
    "Outcome": "many",
    "Georeference": "output.vectors",
    "PredictResult": "prediction",
    "Request": "prediction",
    "Scene": "scene.source",
    "ScenePair": "scene.pair",
    "SceneRef": "scene.finding",
    "Settings": "runs.settings",
    "Tile": "stitching.grid",
    "TileModel": ".tile_model",
    "TileObjects": ".tile_model",
    "TileOutputs": ".tile_model",
    "ValueLayer": "pictures.layers",
    "cell_grid": "stitching.grid",
    "class_polygons": "stitching.polygons",
    "detect_change": "prediction",
    "embed": "prediction",
    "estimate": "prediction",
    "estimate_scenes": "many",
    "find_scenes": "scene.finding",
    "load_model": "models",
    "map_raster": "mapping",
    "predict": "prediction",
    "run": "prediction",
    "run_scenes": "many",
    "run_scenes_on_ray": "many_on_ray",
    "tile_grid": "stitching.grid",
    "write_preview": "pictures.preview",
    "write_quicklook": "pictures.quicklook",
    "write_vectors": "output.vectors",
}

__all__ = [
    "ClassLayer",
    "Estimate",
    "Extent",
    "Features",
    "GeoError",
    "Georeference",
    "Grid",
    "MapResult",
    "ObjectLayer",
    "Outcome",
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
