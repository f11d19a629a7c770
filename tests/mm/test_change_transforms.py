from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS  # noqa: F401 - registers mmseg's transforms
from numpy.typing import NDArray

import dynamicvis.mm  # noqa: F401 - registers ours
from dynamicvis.data.raster import DataError
from dynamicvis.mm.change.transforms import LoadRasterPair, PhotometricDistortion, RandomRotate


def write(path: Path, image: NDArray[Any]) -> str:
    height, width, bands = image.shape
    with rasterio.open(path, "w", width=width, height=height, count=bands, dtype=image.dtype) as file:
        file.write(image.transpose(2, 0, 1))
    return str(path)


def scene(bands: int, kind: str = "float32", height: int = 60, width: int = 80) -> dict[str, Any]:
    """A smooth image whose bands are multiples of the first, and a label that is 1 where that is above its mean."""
    rows, columns = np.mgrid[:height, :width]
    base = 70 + 30 * np.sin(rows / 15) + 30 * np.cos(columns / 20)
    image = np.stack([base * (1 + band / 40) for band in range(bands)], axis=2).astype(kind)
    label = (base > base.mean()).astype(np.uint8)
    return {
        "img": image,
        "gt_seg_map": label,
        "seg_fields": ["gt_seg_map"],
        "img_shape": label.shape,
        "ori_shape": label.shape,
    }


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_bands_of_the_second_date_follow_those_of_the_first(kind: str, tmp_path: Path) -> None:
    first, second = np.random.default_rng(0).integers(0, 200, (2, 5, 7, 4)).astype(kind)
    paths = {"img_path": write(tmp_path / "a.tif", first), "img_path2": write(tmp_path / "b.tif", second)}
    results = LoadRasterPair()(dict(paths))
    np.testing.assert_array_equal(results["img"], np.concatenate([first, second], axis=2))
    assert results["img"].dtype == (np.uint8 if kind == "uint8" else np.float32)
    assert results["img_shape"] == results["ori_shape"] == (5, 7)
    chosen = LoadRasterPair(bands=(3, 1))(dict(paths))["img"]
    np.testing.assert_array_equal(chosen, np.concatenate([first[..., [2, 0]], second[..., [2, 0]]], axis=2))


def test_a_date_may_come_in_several_files(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 9000, (2, 3, 6, 4, 1)).astype(np.uint16)
    paths = [[write(tmp_path / f"{date}_{band}.tif", bands[date, band]) for band in range(3)] for date in (0, 1)]
    image = LoadRasterPair()({"img_path": "x", "img_path2": "y", "band_paths": paths})["img"]
    np.testing.assert_array_equal(image, np.moveaxis(bands[..., 0].reshape(6, 6, 4), 0, -1))
    paths[1][2] = write(tmp_path / "odd.tif", np.zeros((6, 5, 1), np.uint16))
    with pytest.raises(DataError, match=r"1_0\.tif is 4 x 6 pixels and .*odd\.tif is 5 x 6"):
        LoadRasterPair()({"band_paths": paths})


def test_dates_that_do_not_fit_are_named(tmp_path: Path) -> None:
    first = write(tmp_path / "a.tif", np.zeros((5, 7, 4), np.uint8))
    narrow = write(tmp_path / "b.tif", np.zeros((5, 6, 4), np.uint8))
    poor = write(tmp_path / "c.tif", np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.tif is 7 x 5 pixels and .*b\.tif is 6 x 5; .* resample one"):
        LoadRasterPair()({"img_path": first, "img_path2": narrow})
    with pytest.raises(DataError, match=r"a\.tif has 4 bands and its other date .*c\.tif has 3; choose the same bands"):
        LoadRasterPair()({"img_path": first, "img_path2": poor})
    with pytest.raises(DataError, match=r"absent\.tif does not exist"):
        LoadRasterPair()({"img_path": first, "img_path2": str(tmp_path / "absent.tif")})
    skipped = LoadRasterPair(on_error="skip")({"img_path": first, "img_path2": str(tmp_path / "absent.tif")})
    assert skipped is None


@pytest.mark.parametrize("bands", [1, 3, 6, 8, 26])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_rotation_treats_all_bands_alike(kind: str, bands: int) -> None:
    np.random.seed(3)  # noqa: NPY002 - the generator that data workers are seeded through
    rotated = RandomRotate(prob=1.0, degree=180, pad_val=0, seg_pad_val=255)(scene(bands, kind))
    image = rotated["img"].astype(float)
    assert image.shape == (60, 80, bands)
    for band in range(bands):
        np.testing.assert_allclose(
            image[..., band], image[..., 0] * (1 + band / 40), atol=6 if kind == "uint8" else 0.5
        )
    outside = rotated["gt_seg_map"] == 255
    assert 0.1 < outside.mean() < 0.6
    core = outside & (image[..., 0] == 0)
    assert core.sum() > 0.85 * outside.sum()
    # The label went with the image.
    mean = scene(1)["img"].mean()
    inside = ~outside & (abs(image[..., 0] - mean) > 12)
    assert ((image[..., 0] > mean) == (rotated["gt_seg_map"] == 1))[inside].mean() > 0.99


def test_rotation_happens_as_often_as_told() -> None:
    np.random.seed(0)  # noqa: NPY002
    plain = scene(6)
    changed = [not np.array_equal(RandomRotate(prob=0.5, degree=180)(scene(6))["img"], plain["img"]) for _ in range(60)]
    assert 15 < sum(changed) < 45


@pytest.mark.parametrize(("bands", "kind"), [(6, "uint8"), (8, "float32"), (26, "float32")])
def test_the_whole_augmentation_works_on_many_bands(bands: int, kind: str) -> None:
    resize = {"scale": (160, 160), "ratio_range": (0.6, 1.8), "keep_ratio": True, "interpolation": "bicubic"}
    steps = [
        {"type": "dynamicvis.RandomRotate", "prob": 0.5, "degree": 180},
        {"type": "RandomResize", **resize},
        {"type": "RandomCrop", "crop_size": (48, 48), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"},
        {"type": "RandomFlip", "prob": 0.5, "direction": "vertical"},
        {"type": "PackSegInputs"},
    ]
    mean = scene(1)["img"].mean()
    with DefaultScope.overwrite_default_scope("mmseg"):
        pipeline = Compose(steps)
    sizes, seen = set(), 0
    for seed in range(12):
        np.random.seed(seed)  # noqa: NPY002
        packed = pipeline(scene(bands, kind))
        image, label = packed["inputs"].numpy().astype(float), packed["data_samples"].gt_sem_seg.data[0].numpy()
        assert image.shape[0] == bands
        assert image.shape[1:] == label.shape
        sizes.add(image.shape[1:])
        for band in range(bands):
            error = abs(image[band] - image[0] * (1 + band / 40))
            assert error[label != 255].max() < 12
        inside = (label != 255) & (abs(image[0] - mean) > 6)
        wrong = ((image[0] > mean) != (label == 1)) & inside
        assert wrong.sum() <= 0.02 * inside.sum()
        seen += inside.sum()
    assert (48, 48) in sizes
    assert seen > 6 * 48 * 48


def test_distortion_is_drawn_for_each_date() -> None:
    image = np.random.default_rng(0).integers(40, 200, (16, 17, 3)).astype(np.uint8)
    pair = np.concatenate([image, image], axis=2)
    differences, unchanged = [], 0
    for seed in range(30):
        np.random.seed(seed)  # noqa: NPY002
        result = PhotometricDistortion().transform({"img": pair.copy()})["img"]
        assert result.dtype == np.float32
        assert result.shape == pair.shape
        assert 0 <= result.min() < result.max() <= 255
        differences.append(abs(result[..., :3] - result[..., 3:]).max())
        unchanged += np.array_equal(result[..., :3], image)
    assert sum(difference > 2 for difference in differences) > 20
    assert 0 < unchanged < 12


@pytest.mark.parametrize(
    ("setting", "value"),
    [("brightness_delta", 10.0), ("contrast_range", (0.8, 1.2)), ("saturation_range", (0.8, 1.2)), ("hue_delta", 10.0)],
)
def test_each_distortion_does_its_own(setting: str, value: Any) -> None:
    still = {"brightness_delta": 0.0, "contrast_range": (1.0, 1.0), "saturation_range": None, "hue_delta": None}
    image = np.random.default_rng(0).integers(60, 190, (8, 9, 3)).astype(np.uint8)
    shares = []
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        transform = PhotometricDistortion(**(still | {setting: value}), dates=1)
        result = transform.transform({"img": image.copy()})["img"]
        change = result - image
        shares.append(abs(change).max())
        if setting == "brightness_delta":
            np.testing.assert_allclose(change, change.mean(), atol=1e-3)
            assert abs(change).max() <= 10
        elif setting == "contrast_range":
            np.testing.assert_allclose(result / image, (result / image).mean(), rtol=1e-4)
        else:  # Neither changes the largest of the three, which is the value.
            np.testing.assert_allclose(result.max(axis=2), image.max(axis=2), atol=1e-2)
    assert 4 < sum(share > 0.01 for share in shares) < 17


def test_hue_and_saturation_need_three_bands() -> None:
    image = np.full((8, 9, 8), 3000, np.float32)
    with pytest.raises(ValueError, match=r"a date has 4 bands; give PhotometricDistortion saturation_range=None"):
        PhotometricDistortion().transform({"img": image})
    values = set()
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        transform = PhotometricDistortion(500, (0.8, 1.2), None, None, value_range=(0, 3400))
        result = transform.transform({"img": image})["img"]
        assert np.array_equal(result[..., :4], np.broadcast_to(result[:1, :1, :1], (8, 9, 4)))
        values.add(float(result[0, 0, 0]))
    assert max(values) == 3400
    assert min(values) < 2700
