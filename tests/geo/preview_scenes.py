"""A preview of a scene made by code, whose objects and names are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely
from geo_scenes import make_card, write_raster

from dynamicvis.geo import ClassLayer, ObjectLayer, Scene, ValueLayer, write_preview
from dynamicvis.geo.output.vectors import Features

# Names that would become a part of the page, were they not escaped.
FILE = "<img src=x onerror=alert(1)> & 'co'.tif"
CLASSES = ("</script><b>tree", 'shrub & "bush"')
COLORS = ("#ffd400", "#00a0ff")
# In pixels; the second lies on the first.
OBJECTS = (shapely.box(50, 40, 250, 160), shapely.box(100, 80, 140, 120), shapely.Point(320, 100).buffer(40))
LABELS, SCORES = (0, 1, 1), (0.9, 0.51239, 0.25)


def object_layer() -> ObjectLayer:
    polygons = np.array(OBJECTS, dtype=object)
    batches = [
        Features(polygons[part], np.array(LABELS[part]), np.array(SCORES[part])) for part in (slice(0, 1), slice(1, 3))
    ]
    return ObjectLayer(batches)


def make_preview(folder: Path, layers: tuple[str, ...] = ("classes", "objects"), **profile: Any) -> Path:
    """A page of a scene of 400 x 200 pixels: left half of class 0, right half without, a grey ground."""
    card = make_card(name="blobs", classes=CLASSES, colors=COLORS)
    path = write_raster(folder / FILE, np.full((3, 200, 400), 60, np.uint8), **profile)
    classes = np.full((1, 200, 400), 255, np.uint8)
    classes[:, :, :200] = 0
    write_raster(folder / "classes.tif", classes, nodata=255)
    write_raster(folder / "selection.tif", np.ones((1, 2, 4), np.float32))
    made = {
        "classes": ClassLayer(folder / "classes.tif"),
        "objects": object_layer(),
        "selection": ValueLayer(folder / "selection.tif", "where the model looked", cell=100),
    }
    page = folder / "page.html"
    with Scene(path, card) as scene:
        write_preview(page, scene, card, [made[name] for name in layers], before=scene)
    return page
