"""GeoTIFF in, GeoTIFF and vector files out: any model over any scene, in bounded memory, without seams.

Names are imported on first use, so that ``import dynamicvis.geo`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamicvis.geo.errors import GeoError
    from dynamicvis.geo.mapping import MapResult, map_raster
    from dynamicvis.geo.models import load_model
    from dynamicvis.geo.pair import ScenePair
    from dynamicvis.geo.pipeline import PredictResult, Settings, detect_change, embed, predict
    from dynamicvis.geo.preview import write_preview
    from dynamicvis.geo.products import TileModel, TileObjects, TileOutputs
    from dynamicvis.geo.quicklook import write_quicklook
    from dynamicvis.geo.source import Scene
    from dynamicvis.geo.tiles import Extent, Grid, Tile, cell_grid, tile_grid
    from dynamicvis.geo.vectors import Features, Place, write_vectors

_MODULES = {
    "Extent": "tiles",
    "Features": "vectors",
    "GeoError": "errors",
    "Grid": "tiles",
    "MapResult": "mapping",
    "Place": "vectors",
    "PredictResult": "pipeline",
    "Scene": "source",
    "ScenePair": "pair",
    "Settings": "pipeline",
    "Tile": "tiles",
    "TileModel": "products",
    "TileObjects": "products",
    "TileOutputs": "products",
    "cell_grid": "tiles",
    "detect_change": "pipeline",
    "embed": "pipeline",
    "load_model": "models",
    "map_raster": "mapping",
    "predict": "pipeline",
    "tile_grid": "tiles",
    "write_preview": "preview",
    "write_quicklook": "quicklook",
    "write_vectors": "vectors",
}

__all__ = [
    "Extent",
    "Features",
    "GeoError",
    "Grid",
    "MapResult",
    "Place",
    "PredictResult",
    "Scene",
    "ScenePair",
    "Settings",
    "Tile",
    "TileModel",
    "TileObjects",
    "TileOutputs",
    "cell_grid",
    "detect_change",
    "embed",
    "load_model",
    "map_raster",
    "predict",
    "tile_grid",
    "write_preview",
    "write_quicklook",
    "write_vectors",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
