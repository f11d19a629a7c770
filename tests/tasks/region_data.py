"""Shards of regions made by code: four coloured rectangles an image, the colour tells the class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from webdataset import ShardWriter

COLORS = np.array([(220, 60, 40), (60, 200, 60), (50, 80, 220), (230, 230, 60)], np.uint8)


def make_shards(folder: Path, count: int, classes: Sequence[str], size: int = 64, seed: int = 0) -> Path:
    """A folder of shards of two images each, with classes 0 to 3 of ``classes``, in the layout of the reference."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    half = size // 2
    with ShardWriter(f"{folder}/%05d.tar", maxcount=2, verbose=0, encoder=False) as writer:
        for i in range(count):
            image = generator.integers(90, 140, (size, size, 3)).astype(np.uint8)
            # From one to four regions, so that processes have different numbers of them.
            labels = generator.integers(0, 4, 1 + (i + seed) % 4)
            boxes = []
            for place, label in enumerate(labels):
                top, left = half * (place // 2) + 3, half * (place % 2) + 3
                image[top : top + half - 6, left : left + half - 6] = COLORS[label]
                boxes.append([left, top, left + half - 6, top + half - 6])
            done, content = cv2.imencode(".png", image[..., ::-1])
            assert done
            annotation = {"gt_bboxes": boxes, "gt_bboxes_labels": [classes[label] for label in labels]}
            members = {"png.png": content.tobytes(), "png.json": json.dumps(annotation).encode()}
            writer.write({"__key__": f"image_{i}", **members})
    meta = {"num_samples": count, "num_shards": -(-count // 2), "classes": list(classes)}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder
