"""Small detection sets in the layouts of their releases: bright rectangles on noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from rasterio.transform import from_origin

from dynamicvis.data.preparation.nwpu import CLASSES as NWPU_CLASSES
from dynamicvis.data.preparation.sen2ships import PLACES, encode_mask

SIZE = 64
# Options of the configs of sen2ships: an epoch of four crops of 64 pixels.
FEW_SMALL_CROPS = [
    "train_dataloader.dataset.datasets.0.times=1",
    "train_dataloader.dataset.datasets.0.dataset.indices=1",
    "train_dataloader.dataset.datasets.1.indices=3",
    "train_dataloader.dataset.datasets.0.dataset.pipeline.3.crop_size=(64,64)",
    "train_dataloader.dataset.datasets.0.dataset.pipeline.7.size=(64,64)",
    "train_dataloader.dataset.datasets.1.pipeline.3.crop_size=(64,64)",
    "train_dataloader.dataset.datasets.1.pipeline.7.size=(64,64)",
    "val_dataloader.dataset.pipeline.1.scale_factor=1.0",
    "test_dataloader.dataset.pipeline.1.scale_factor=1.0",
]
Box = tuple[int, int, int, int]  # left, top, right, bottom


def draw(generator: np.random.Generator, count: int) -> tuple[np.ndarray, list[Box]]:
    """An image (64, 64, 3) uint8 with up to three rectangles, one in each of three corners."""
    image = generator.integers(20, 90, (SIZE, SIZE, 3)).astype(np.uint8)
    boxes = []
    for x, y in [(4, 4), (36, 6), (8, 38)][:count]:
        left, top = (value + int(generator.integers(0, 4)) for value in (x, y))
        right, bottom = left + int(generator.integers(10, 20)), top + int(generator.integers(10, 20))
        image[top:bottom, left:right] = generator.integers(180, 255, (bottom - top, right - left, 3))
        boxes.append((left, top, right, bottom))
    return image, boxes


def levir_ship(folder: Path, counts: dict[str, int]) -> Path:
    """Partitioned release in YOLO format; every third image is without ships."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for name in ("images", "labels"):
            (folder / split / name).mkdir(parents=True)
        for index in range(count):
            image, boxes = draw(generator, (index + 1) % 3)
            write(folder / split / "images" / f"img_{index}.png", image)
            lines = []
            for left, top, right, bottom in boxes:
                values = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
                lines.append("0 " + " ".join(f"{value / SIZE:.6f}" for value in values) + "\n")
            (folder / split / "labels" / f"img_{index}.txt").write_text("".join(lines))
    return folder


def ssdd(folder: Path, train: int, test: int) -> Path:
    """The official release: PASCAL VOC with outlines; some JPEGs are grey, some have three equal bands."""
    generator = np.random.default_rng(1)
    root = folder / "PSeg_SSDD" / "voc_style"
    number = 0
    for split, count in (("train", train), ("test", test)):
        for name in (f"JPEGImages_{split}", f"Annotations_{split}"):
            (root / name).mkdir(parents=True)
        for _ in range(count):
            number += 1
            image, boxes = draw(generator, 1 + number % 3)
            gray = image[..., 0] if number % 2 else image[..., :1].repeat(3, axis=2)
            write(root / f"JPEGImages_{split}" / f"{number:06d}.jpg", gray)
            objects = "".join(_voc_object(box) for box in boxes)
            size = f"<size><width>{SIZE}</width><height>{SIZE}</height><depth>3</depth></size>"
            text = f"<annotation><filename>{number:06d}.jpg</filename>{size}{objects}</annotation>"
            (root / f"Annotations_{split}" / f"{number:06d}.xml").write_text(text)
    return folder


def ssdd_coco(folder: Path, count: int) -> tuple[Path, Path]:
    """All images in one folder and COCO annotations of them; ids of images count from 0."""
    generator = np.random.default_rng(2)
    (folder / "images").mkdir(parents=True)
    coco = _coco(["ship"])
    for index in range(count):
        image, boxes = draw(generator, 1 + index % 3)
        name = f"{index + 1:06d}.jpg"
        write(folder / "images" / name, image)
        coco["images"].append({"id": index, "file_name": name, "width": SIZE, "height": SIZE})
        for box in boxes:
            _add(coco, index, 1, box, [_polygon(box)])
    path = folder / "SSDD.json"
    path.write_text(json.dumps(coco))
    return folder / "images", path


def nwpu(folder: Path, count: int) -> Path:
    """The release with text files, and the masks of the COCO annotations beside it."""
    generator = np.random.default_rng(3)
    for name in ("positive image set", "negative image set", "ground truth"):
        (folder / name).mkdir(parents=True)
    coco = _coco([name.replace(" ", "_") for name in NWPU_CLASSES])
    label = 0
    for index in range(count):
        image, boxes = draw(generator, 1 + index % 3)
        write(folder / "positive image set" / f"{index + 1:03d}.jpg", image)
        coco["images"].append({"id": index, "file_name": f"{index + 1:03d}.jpg", "width": SIZE, "height": SIZE})
        lines = []
        for box in boxes:
            label = label % 10 + 1
            lines.append(f"({box[0]},{box[1]}),({box[2]},{box[3]}),{label} \n")
            _add(coco, index, label, box, [_polygon(box)])
        (folder / "ground truth" / f"{index + 1:03d}.txt").write_text("".join(lines))
    write(folder / "negative image set" / "001.jpg", draw(generator, 0)[0])
    (folder / "annotations.json").write_text(json.dumps(coco))
    return folder


def sen2ships(folder: Path, width: int = 96, height: int = 80) -> Path:
    """Seven scenes of 16 bits, four bands or five, with three ships each."""
    generator = np.random.default_rng(4)
    folder.mkdir(parents=True)
    coco = _coco(["ship"])
    for index, place in enumerate(sorted(place for places in PLACES.values() for place in places)):
        bands = ("B02", "B03", "B04", "B08", "B11")[: 4 + index % 2]
        scene = generator.integers(200, 900, (len(bands), height, width)).astype(np.uint16)
        coco["images"].append({"id": index, "file_name": f"{place}.tif", "width": width, "height": height})
        for left, top in ((5, 5), (38, 10), (20, 50)):
            right, bottom = left + int(generator.integers(8, 20)), top + int(generator.integers(8, 20))
            scene[:, top:bottom, left:right] = generator.integers(2500, 4000, (len(bands), bottom - top, right - left))
            mask = np.zeros((height, width), bool)
            mask[top:bottom, left:right] = True
            _add(coco, index, 1, (left, top, right, bottom), encode_mask(mask))
        profile = dict(driver="GTiff", width=width, height=height, count=len(bands), dtype="uint16")
        place_at = dict(crs="EPSG:3857", transform=from_origin(1000 * index, 5000, 10, 10))
        with rasterio.open(folder / f"{place}.tif", "w", **profile, **place_at) as file:
            file.write(scene)
            file.descriptions = bands
    (folder / "annotations.json").write_text(json.dumps(coco))
    return folder


def write(path: Path, image: np.ndarray) -> None:
    """Write an image in RGB order."""
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def _voc_object(box: Box) -> str:
    corners = "".join(
        f"<{name}>{value}</{name}>" for name, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    points = np.array(_polygon(box)).reshape(-1, 2).tolist()
    outline = "".join(f"<point>{x},{y}</point>" for x, y in points)
    return f"<object><name>ship</name><difficult>0</difficult><bndbox>{corners}</bndbox><segm>{outline}</segm></object>"


def _polygon(box: Box) -> list[float]:
    left, top, right, bottom = map(float, box)
    return [left, top, right, top, right, bottom, left, bottom]


def _coco(classes: list[str]) -> dict[str, list[dict[str, Any]]]:
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
    return {"images": [], "annotations": [], "categories": categories}


def _add(coco: dict[str, list[dict[str, Any]]], image_id: int, label: int, box: Box, segmentation: Any) -> None:
    left, top, right, bottom = box
    area = (right - left) * (bottom - top)
    coco["annotations"].append(
        {
            "id": len(coco["annotations"]),
            "image_id": image_id,
            "category_id": label,
            "bbox": [left, top, right - left, bottom - top],
            "area": area,
            "iscrowd": 0,
            "segmentation": segmentation,
        }
    )
