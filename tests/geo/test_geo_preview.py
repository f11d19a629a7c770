"""The page as a text; test_geo_preview_browser.py opens it."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from geo_scenes import make_card, write_raster
from preview_scenes import CLASSES, COLORS, FILE, make_preview
from shapely import affinity

from dynamicvis.geo import GeoError, ObjectLayer, Scene, write_preview
from dynamicvis.geo.output.vectors import Features, box_features
from dynamicvis.geo.pictures.preview import MOST_OBJECTS


class Page(HTMLParser):
    """The elements of a page, as a browser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in self.texts else None
        if self._inside:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside][-1] += data


def content_of(path: Path) -> Any:
    return json.loads(Page(path.read_text("utf-8")).texts["script"][0])


def test_names_are_text_and_never_elements(tmp_path: Path) -> None:
    page = Page(make_preview(tmp_path).read_text("utf-8"))
    assert page.texts["title"] == [FILE]
    assert [tag for tag, _ in page.elements].count("img") == 0
    assert [tag for tag, _ in page.elements].count("b") == 0
    assert len(page.texts["script"]) == 3
    content = json.loads(page.texts["script"][0])
    assert content["title"] == FILE
    assert tuple(entry["name"] for entry in content["layers"][1]["classes"]) == CLASSES


def test_the_policy_lets_nothing_in_but_the_scripts_and_styles_of_the_page(tmp_path: Path) -> None:
    page = Page(make_preview(tmp_path).read_text("utf-8"))
    policies = [values["content"] for tag, values in page.elements if "http-equiv" in values and tag == "meta"]
    policy = dict(rule.strip().split(" ", 1) for rule in (policies[0] or "").split(";"))
    assert policy.pop("default-src") == policy.pop("base-uri") == policy.pop("form-action") == "'none'"
    assert policy.pop("img-src") == "data:"
    for rule, texts in (("script-src", page.texts["script"][1:]), ("style-src", page.texts["style"])):
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert policy.pop(rule) == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert not policy
    for _, values in page.elements:
        assert {"src", "srcset", "style"}.isdisjoint(values)
        assert (values.get("href") or "data:").startswith("data:")
    assert "sourceMappingURL" not in page.texts["script"][1]


def test_leaflet_comes_with_its_licence(tmp_path: Path) -> None:
    licence = (files("dynamicvis.geo.pictures") / "assets" / "leaflet" / "LICENSE").read_text("utf-8")
    assert licence.startswith("BSD 2-Clause")
    assert licence in make_preview(tmp_path).read_text("utf-8")


def test_ids_scores_and_areas_are_those_of_the_vector_file(tmp_path: Path) -> None:
    content = content_of(make_preview(tmp_path))
    objects = {entry["id"]: entry for entry in content["layers"][1]["objects"]}
    assert [entry["id"] for entry in content["layers"][1]["objects"]] == [1, 3, 2], "the largest first"
    assert [objects[number]["score"] for number in (1, 2, 3)] == [0.9, 0.5124, 0.25]
    assert [objects[number]["class"] for number in (1, 2, 3)] == [0, 1, 1]
    # Pixels of 0.1 m: the scale of UTM at this place changes areas by less than a thousandth.
    assert objects[1]["area_m2"] == pytest.approx(200 * 120 / 100, rel=1e-3)
    assert objects[2]["area_m2"] == pytest.approx(16, rel=1e-3)
    (part,) = objects[2]["rings"]
    assert sorted(zip(part[0][::2], part[0][1::2], strict=True)) == [(100, 80), (100, 120), (140, 80), (140, 120)]
    assert [entry["color"] for entry in content["layers"][1]["classes"]] == list(COLORS)


def test_a_scene_without_crs_has_pixels_and_no_areas(tmp_path: Path) -> None:
    content = content_of(make_preview(tmp_path, crs=None))
    assert content["place"] is None
    assert content["metres"] is None
    assert {entry["area_m2"] for entry in content["layers"][1]["objects"]} == {None}


def write_page(folder: Path, size: int, batches: list[Features]) -> Any:
    path = write_raster(folder / "a.tif", np.full((3, 8, 8), 60, np.uint8), width=size, height=size, sparse_ok=True)
    with Scene(path, make_card()) as scene:
        write_preview(folder / "page.html", scene, make_card(), [ObjectLayer(batches)])
    return content_of(folder / "page.html")["layers"][0]


def test_of_many_objects_the_largest_are_drawn_and_all_are_counted(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    batches = []
    for _ in range(5):
        corners, sides = generator.uniform(0, 900, (4000, 2)), generator.uniform(1, 90, (4000, 2))
        labels = generator.integers(0, 2, 4000)
        batches.append(box_features(np.hstack([corners, corners + sides]), np.ones(4000), labels))
    layer = write_page(tmp_path, 1000, batches)
    assert layer["total"] == 20_000
    labels = np.concatenate([batch.labels for batch in batches])
    assert [entry["note"] for entry in layer["classes"]] == [f"{count:,}" for count in np.bincount(labels)]
    areas = np.concatenate([shapely.area(batch.polygons) for batch in batches])
    largest = np.argsort(-areas)[:MOST_OBJECTS] + 1
    assert [entry["id"] for entry in layer["objects"]] == largest.tolist()
    for entry in layer["objects"][:50]:
        assert entry["area_m2"] == pytest.approx(areas[entry["id"] - 1] / 100, rel=1e-3)


def test_long_outlines_are_simplified_until_the_page_is_small(tmp_path: Path) -> None:
    """Every object stays, with its hole, where it was."""
    angles = np.linspace(0, 2 * np.pi, 20_001)[:-1]
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (1 + 0.02 * np.sin(angles * 900))[:, None]
    flower = shapely.Polygon(ring * 60, [ring * 30])
    flowers = [affinity.translate(flower, 100 + 7 * index, 500) for index in range(60)]
    batch = Features(np.array(flowers, dtype=object), np.zeros(60, np.int64), np.ones(60))
    layer = write_page(tmp_path, 1000, [batch])
    assert len(layer["objects"]) == 60
    assert (tmp_path / "page.html").stat().st_size < 10_000_000
    for entry in layer["objects"][:2]:
        (rings,) = entry["rings"]
        drawn = shapely.Polygon(np.reshape(rings[0], (-1, 2)), [np.reshape(rings[1], (-1, 2))])
        assert shapely.hausdorff_distance(drawn, flowers[entry["id"] - 1]) < 3


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 8, 8), 60, np.uint8))
    with Scene(path, make_card()) as scene, pytest.raises(GeoError, match=r"page\.html cannot be written"):
        write_preview(tmp_path / "gone" / "page.html", scene, make_card(), [])
