"""A page that shows a scene and what was found on it, without a network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.output.vectors import Features, round_areas
from dynamicvis.geo.pictures.layers import ClassLayer, Ground, Layer, ObjectLayer
from dynamicvis.geo.pictures.rendering import (
    RAMP,
    class_indices,
    class_picture,
    class_shares,
    decimated_size,
    ground_picture,
    share_text,
    value_picture,
)
from dynamicvis.geo.scene.georeference import Georeference
from dynamicvis.geo.scene.ground import Ground as OnGround
from dynamicvis.model_card import ModelCard

MOST_OBJECTS = 10_000  # drawn; a browser keeps up with them
_MOST_POINTS = 400_000  # of all outlines together: about 5 MB of the page
_QUALITY = 85  # of the scene as WebP
# Nothing is fetched, sent or embedded; only the page's own scripts and styles run, known by their digests.
_POLICY = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; script-src {}; style-src {}"


def write_preview(
    path: str | Path, scene: Ground, card: ModelCard, layers: Sequence[Layer], *, before: Ground | None = None
) -> None:
    """Write one HTML page with the scene, at most 2048 pixels along its long edge, and layers to switch on and off.

    A click on an object shows its id, class, score and area. The page holds all that it needs, Leaflet included, and
    its Content-Security-Policy forbids every request. Of many objects the `MOST_OBJECTS` largest are drawn, and
    outlines are simplified, to less than a pixel of the picture where there are not very many; the page says how many
    are drawn.

    Args:
        path: of the page; replaced if it exists.
        scene: an open scene; of a change, the later one.
        card: its bands, classes and colours.
        layers: what to show, the lowest first.
        before: of a change, the earlier scene on the same grid, to be compared by a switch.

    Raises:
        GeoError: a scene or a layer's raster is damaged, or the file cannot be written.
    """
    height, width = decimated_size(scene.height, scene.width)
    grounds = {"scene": scene} if before is None else {"after": scene, "before": before}
    content = {
        "title": Path(scene.path).name,
        "model": card.name,
        "width": scene.width,
        "height": scene.height,
        "place": _place(scene),
        "metres": scene.gsd,
        "grounds": [
            {"name": name, "image": _image_uri(ground_picture(ground, card, height, width), quality=_QUALITY)}
            for name, ground in grounds.items()
        ],
        "sharp": width == scene.width,
        # The first is what the page is about; the others would hide it.
        "layers": [
            {**_layer_content(layer, scene, card, height, width), "shown": number == 0}
            for number, layer in enumerate(layers)
        ],
    }
    try:
        Path(path).write_text(_page(content), encoding="utf-8")
    except OSError as error:
        raise GeoError(
            f"{Path(path).name} cannot be written ({error.strerror}); check the folder and its free space"
        ) from error


def _place(scene: Ground) -> dict[str, Any] | None:
    """How to turn pixels into map coordinates, None without georeference."""
    if scene.crs is None:
        return None
    step = math.hypot(scene.affine.a, scene.affine.d)
    return {
        "crs": scene.crs.to_string() if scene.crs.to_epsg() else "map coordinates",
        "affine": list(scene.affine)[:6],
        "decimals": max(0, round(-math.log10(step)) + 1),
    }


def _layer_content(layer: Layer, scene: Ground, card: ModelCard, height: int, width: int) -> dict[str, Any]:
    if isinstance(layer, ObjectLayer):
        return _object_content(layer, scene, card)
    if isinstance(layer, ClassLayer):
        indices = class_indices(layer, scene, height, width, len(card.classes))
        shares = class_shares(layer, indices, len(card.classes))
        return {
            "kind": "classes",
            "name": "classes",
            "image": _image_uri(class_picture(indices, card.colors, layer.hidden)),
            "classes": [
                {"name": name, "color": color, "note": share_text(share)}
                for index, (name, color, share) in enumerate(zip(card.classes, card.colors, shares, strict=True))
                if index not in layer.hidden and share > 0
            ],
        }
    picture = value_picture(layer, scene, height, width)
    ramp = layer.style == "ramp"
    note = "" if ramp else "first three principal components as red, green and blue"
    return {
        "kind": "values",
        "name": layer.name,
        "note": note,
        "ramp": list(RAMP) if ramp else [],
        "highest": f"{layer.highest:g}",
        "image": _image_uri(picture),
    }


def _object_content(layer: ObjectLayer, scene: Ground, card: ModelCard) -> dict[str, Any]:
    tolerance = max(0.1, max(scene.height, scene.width) / 8192)
    shapes, ids, counts = _largest(layer, len(card.classes))
    measured: list[float | None] = [None] * len(shapes)
    if scene.crs is not None:
        measured = _areas(shapes, scene)
    polygons = shapely.simplify(shapes.polygons, tolerance)
    while shapely.get_num_coordinates(polygons).sum() > _MOST_POINTS:
        tolerance *= 2
        polygons = shapely.simplify(polygons, tolerance)
    return {
        "kind": "objects",
        "name": "objects",
        "filled": layer.filled,
        "total": int(counts.sum()),
        "classes": [
            {"name": name, "color": color, "note": f"{count:,}", "total": count}
            for name, color, count in zip(card.classes, card.colors, counts.tolist(), strict=True)
        ],
        "objects": [
            {
                "id": number,
                "class": label,
                "score": None if math.isnan(score) else round(score, 4),
                "area_m2": area,
                "rings": _rings(polygon),
            }
            for number, label, score, area, polygon in zip(
                ids.tolist(), shapes.labels.tolist(), shapes.scores.tolist(), measured, polygons, strict=True
            )
        ],
    }


def _areas(shapes: Features, scene: Ground) -> list[float | None]:
    """Square metres; None of what reaches beyond the globe."""
    georeference = Georeference(scene.crs, scene.affine, scene.path, (scene.height, scene.width))
    found = round_areas(OnGround(shapes.polygons, georeference).areas)
    return [None if math.isnan(area) else area for area in found.tolist()]


def _largest(layer: ObjectLayer, classes: int) -> tuple[Features, NDArray[np.int64], NDArray[np.int64]]:
    """The largest objects of a layer, largest first, their ids, and the number of all objects of each class."""
    kept = Features(np.empty(0, object), np.empty(0, np.int64), np.empty(0))
    ids, counts, first = np.empty(0, np.int64), np.zeros(classes, np.int64), 1
    for batch in layer.batches:
        number = len(batch.labels)
        counts += np.bincount(batch.labels, minlength=classes)
        joined = Features(
            np.concatenate([kept.polygons, batch.polygons]),
            np.concatenate([kept.labels, batch.labels]),
            np.concatenate([kept.scores, batch.scores]),
        )
        ids = np.concatenate([ids, np.arange(first, first + number)])
        order = np.argsort(-shapely.area(joined.polygons), kind="stable")[:MOST_OBJECTS]
        kept = Features(joined.polygons[order], joined.labels[order], joined.scores[order])
        ids, first = ids[order], first + number
    return kept, ids, counts


def _rings(polygon: Any) -> list[list[list[float]]]:
    """Parts, each a list of rings, each a flat list x, y, x, y ... in pixels of the scene, to a tenth."""
    return [
        [shapely.get_coordinates(ring)[:-1].round(1).ravel().tolist() for ring in (part.exterior, *part.interiors)]
        for part in shapely.get_parts(polygon)
    ]


def _image_uri(picture: NDArray[np.uint8], quality: int | None = None) -> str:
    """A picture as a ``data:`` address; without loss unless a quality is given."""
    target = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if quality is None else {"quality": quality}
    Image.fromarray(picture).save(target, format="WEBP", method=2, **options)
    return "data:image/webp;base64," + base64.b64encode(target.getvalue()).decode()


def _page(content: dict[str, Any]) -> str:
    assets = files("dynamicvis.geo.pictures") / "assets"
    texts = {
        "leaflet-css": (assets / "leaflet" / "leaflet.css").read_text(encoding="utf-8"),
        "page-css": (assets / "preview.css").read_text(encoding="utf-8"),
        # Without its last line, for which the tools of a browser would fetch a file.
        "leaflet-js": (assets / "leaflet" / "leaflet.js").read_text(encoding="utf-8").partition("//# source")[0],
        "page-js": (assets / "preview.js").read_text(encoding="utf-8"),
    }
    scripts, styles = (
        " ".join(_digest(text) for name, text in texts.items() if name.endswith(kind)) for kind in ("-js", "-css")
    )
    texts |= {
        "policy": html.escape(_POLICY.format(scripts, styles), quote=True).replace("&#x27;", "'"),
        "title": html.escape(content["title"]),
        "licence": (assets / "leaflet" / "LICENSE").read_text(encoding="utf-8"),
        "content": _json_for_html(content),
    }
    template = (assets / "preview.html").read_text(encoding="utf-8")
    return re.sub(r"\[\[([a-z-]+)\]\]", lambda place: texts[place[1]], template)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json_for_html(content: dict[str, Any]) -> str:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
