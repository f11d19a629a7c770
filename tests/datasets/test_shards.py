"""Tar shards of regions: read by number, and what is wrong with them named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from webdataset import ShardWriter, WebDataset

from dynamicvis.data.raster import DataError
from dynamicvis.data.shards import RegionShards

CLASSES = ("zoo", "wind_farm", "barn")


def encoded(value: int, suffix: str = ".png") -> bytes:
    done, content = cv2.imencode(suffix, np.full((20, 30, 3), value, np.uint8))
    assert done
    return content.tobytes()


def annotation(label: Any = "zoo", box: Any = (1, 2, 11, 12)) -> bytes:
    return json.dumps({"gt_bboxes": [box], "gt_bboxes_labels": [label]}).encode()


def write(folder: Path, samples: list[dict[str, Any]], per_shard: int = 3, count: int | None = None) -> Path:
    """Shards as the reference's tools write them: by webdataset, with the number of samples beside them."""
    folder.mkdir()
    with ShardWriter(f"{folder}/%05d.tar", maxcount=per_shard, verbose=0, encoder=False) as writer:
        for sample in samples:
            writer.write(sample)
    (folder / "meta.json").write_text(json.dumps({"num_samples": len(samples) if count is None else count}))
    return folder


def sample(i: int, **members: bytes) -> dict[str, Any]:
    content = {"jpg.jpg": encoded(10 * i), "jpg.json": annotation(CLASSES[i % 3], (i, 2, 12, 14.5))}
    return {"__key__": f"place_{i}_rgb", **content, **members}


def test_every_image_is_read_by_its_number(tmp_path):
    shards = RegionShards(write(tmp_path / "a", [sample(i) for i in range(7)]), CLASSES)
    assert len(shards) == 7
    for i in (6, 0, 3, 3):
        image, regions = shards.image(i), shards.regions(i)
        assert (image == 10 * i).all()
        assert image.shape == (20, 30, 3)
        np.testing.assert_array_equal(regions.boxes, np.array([[i, 2, 12, 14.5]], np.float32))
        assert regions.labels.tolist() == [i % 3]
        assert shards.name(i) == f"{tmp_path}/a/{i // 3:05d}.tar/place_{i}_rgb.jpg"


def test_a_stream_of_webdataset_gives_the_same(tmp_path):
    folder = write(tmp_path / "a", [sample(i) for i in range(7)])
    shards = RegionShards(folder, CLASSES)
    stream = WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False)
    for i, item in enumerate(stream):
        assert item["jpg.jpg"] == shards.content(i)
        assert json.loads(item["jpg.json"])["gt_bboxes"] == shards.regions(i).boxes.tolist()
    assert i == 6


def test_images_without_regions_are_allowed(tmp_path):
    nothing = json.dumps({"gt_bboxes": [], "gt_bboxes_labels": []}).encode()
    regions = RegionShards(write(tmp_path / "a", [sample(0, **{"jpg.json": nothing})]), CLASSES).regions(0)
    assert (regions.boxes.shape, regions.labels.shape) == ((0, 4), (0,))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (None, r"meta\.json does not exist; it must hold the number of images"),
        ("{}", r"meta\.json must hold .*num_samples"),
        ('{"num_samples": "7"}', r"a whole number above 0"),
        ('{"num_samples": true}', r"a whole number above 0"),
        ("{", r"meta\.json must hold"),
        ('{"num_samples": 8}', r"holds 7 images in 3 shards, and meta\.json says 8; get the missing shards"),
    ],
)
def test_a_missing_or_wrong_count_is_an_error(tmp_path, meta, message):
    folder = write(tmp_path / "a", [sample(i) for i in range(7)])
    (folder / "meta.json").unlink()
    if meta is not None:
        (folder / "meta.json").write_text(meta)
    with pytest.raises(DataError, match=message):
        RegionShards(folder, CLASSES)


def test_missing_and_damaged_shards_are_named(tmp_path):
    folder = write(tmp_path / "a", [sample(i) for i in range(7)])
    shard = folder / "00001.tar"
    content = shard.read_bytes()
    for broken in (b"no tar file at all", content[:700]):
        shard.write_bytes(broken)
        with pytest.raises(DataError, match=r"00001\.tar is damaged or no tar file|says 7; get the missing"):
            RegionShards(folder, CLASSES)
    shard.unlink()
    with pytest.raises(DataError, match="holds 4 images in 2 shards"):
        RegionShards(folder, CLASSES)
    for other in folder.glob("*.tar"):
        other.unlink()
    with pytest.raises(DataError, match=r"a holds no \*\.tar"):
        RegionShards(folder, CLASSES)


@pytest.mark.parametrize(("lacking", "word"), [("jpg.jpg", "image"), ("jpg.json", "annotations")])
def test_a_sample_lacks_its_counterpart(tmp_path, lacking, word):
    samples = [sample(i) for i in range(4)]
    del samples[3][lacking]
    with pytest.raises(DataError, match=rf"00001\.tar: place_3_rgb\.jpg has no {word}"):
        RegionShards(write(tmp_path / "a", samples), CLASSES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (annotation("harbour"), r"place_0_rgb\.jpg: the class 'harbour' is none of the 3 classes"),
        (annotation(box=(5, 5, 5, 9)), r"place_0_rgb\.jpg: the box \[5, 5, 5, 9\].*no area"),
        (annotation(box=(-9, 5, 8, 9)), "no area inside the image"),
        (annotation(box=(1, 5, 1e999, 9)), "no area inside the image"),
        (annotation(box=(1, 5, 7)), "annotations cannot be read"),
        (b'{"gt_bboxes": [[1, 2, 3, 4]]}', "annotations cannot be read .*need gt_bboxes"),
        (b"{", "annotations cannot be read"),
        (b'{"gt_bboxes": [[1, 2, 3, 4]], "gt_bboxes_labels": []}', "annotations cannot be read"),
    ],
)
def test_bad_annotations_are_named(tmp_path, content, message):
    shards = RegionShards(write(tmp_path / "a", [sample(0, **{"jpg.json": content})]), CLASSES)
    with pytest.raises(DataError, match=message):
        shards.regions(0)


def test_damaged_images_are_named(tmp_path):
    content = encoded(7, ".jpg")
    shards = RegionShards(write(tmp_path / "a", [sample(0, **{"jpg.jpg": content[:300]})]), CLASSES)
    with pytest.raises(DataError, match=r"00000\.tar/place_0_rgb\.jpg cannot be read as an image"):
        shards.image(0)


def test_classes_come_from_the_folder(tmp_path):
    folder = write(tmp_path / "a", [sample(0)])
    with pytest.raises(DataError, match=r"meta\.json has no 'classes'"):
        RegionShards(folder)
    (folder / "meta.json").write_text(json.dumps({"num_samples": 1, "classes": CLASSES}))
    assert RegionShards(folder).classes == CLASSES


@pytest.mark.parametrize(
    "content",
    [
        annotation(["zoo"]),
        annotation(None),
        annotation(box=("1", "2", "11", "12")),
        annotation(box=(1, 2, 10**400, 12)),
        annotation(box=(False, False, True, True)),
        b'{"gt_bboxes": [1, 2, 11, 12], "gt_bboxes_labels": ["zoo"]}',
        b'{"gt_bboxes": [[1, 2, 11, 12]], "gt_bboxes_labels": "z"}',
    ],
)
def test_annotations_of_other_types_are_named(tmp_path, content):
    shards = RegionShards(write(tmp_path / "a", [sample(0, **{"jpg.json": content})]), CLASSES)
    with pytest.raises(DataError, match="its annotations cannot be read"):
        shards.regions(0)


def test_a_box_too_large_for_its_type_is_named(tmp_path):
    content = annotation(box=(1, 2, 1e39, 12))
    shards = RegionShards(write(tmp_path / "a", [sample(0, **{"jpg.json": content})]), CLASSES)
    with pytest.raises(DataError, match="no area inside the image"):
        shards.regions(0)


@pytest.mark.parametrize("classes", ["zoo", 5, [["zoo"]], ["zoo", "zoo"]])
def test_classes_of_the_folder_are_names(tmp_path, classes):
    folder = write(tmp_path / "a", [sample(0)])
    (folder / "meta.json").write_text(json.dumps({"num_samples": 1, "classes": classes}))
    with pytest.raises(DataError, match=r"no list of names|name 'zoo' twice"):
        RegionShards(folder)
