"""Images of any number of bands through mmdet's transforms and preprocessor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData

from dynamicvis.mm.transforms import RadiometricJitter, RandomRotate90


def build(**settings):
    return MODELS.build({"type": "dynamicvis.DetDataPreprocessor", **settings})


def batch(*shapes, masks=False) -> dict:
    samples = []
    for _, height, width in shapes:
        sample = DetDataSample(metainfo={"img_shape": (height, width)})
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[1.0, 1.0, 5.0, 5.0]]), labels=torch.tensor([0]))
        if masks:
            sample.gt_instances.masks = BitmapMasks(np.ones((1, height, width), np.uint8), height, width)
        samples.append(sample)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 10000, shape, generator=generator).float() for shape in shapes]
    return {"inputs": images, "data_samples": samples}


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 6, 13])
def test_every_band_gets_its_own_mean_and_std(bands):
    mean, std = [100.0 * (band + 1) for band in range(bands)], [10.0 + band for band in range(bands)]
    data = batch((bands, 8, 10), (bands, 8, 10))
    inputs = build(mean=mean, std=std)(data)["inputs"]
    assert inputs.shape == (2, bands, 8, 10)
    for band in range(bands):
        expected = (data["inputs"][1][band] - mean[band]) / std[band]
        torch.testing.assert_close(inputs[1, band], expected)


def test_images_of_several_sizes_are_padded_with_the_mean_and_masks_with_nothing():
    data = batch((4, 20, 33), (4, 32, 10), masks=True)
    result = build(mean=[5000.0] * 4, std=[2.0] * 4, pad_size_divisor=32, pad_mask=True)(data, training=True)
    assert result["inputs"].shape == (2, 4, 32, 64)
    assert (result["inputs"][0, :, 20:] == 0).all()
    assert (result["inputs"][0, :, :, 33:] == 0).all()
    masks = [sample.gt_instances.masks.masks for sample in result["data_samples"]]
    assert [mask.shape for mask in masks] == [(1, 32, 64), (1, 32, 64)]
    assert [mask.sum() for mask in masks] == [20 * 33, 32 * 10]
    assert result["data_samples"][0].batch_input_shape == (32, 64)


def test_eight_bit_images_in_bgr_order_become_rgb():
    data = batch((3, 4, 4))
    data["inputs"] = [torch.arange(3).view(3, 1, 1).expand(3, 4, 4).to(torch.uint8)]
    inputs = build(mean=[0.0, 0, 0], std=[1.0, 1, 1], bgr_to_rgb=True)(data)["inputs"]
    assert inputs[0, :, 0, 0].tolist() == [2.0, 1.0, 0.0]


def test_without_normalisation_values_stay():
    data = batch((5, 4, 4))
    torch.testing.assert_close(build()(data)["inputs"][0], data["inputs"][0])


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([1.0, 2.0], [1.0], "one value a band"),
        ([1.0], None, "one value a band"),
        ([1.0], [0.0], "std must be positive"),
    ],
)
def test_wrong_statistics_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        build(mean=mean, std=std)


def test_an_image_of_other_bands_than_the_statistics_is_an_error():
    data = batch((4, 8, 8), (3, 8, 8))
    data["data_samples"][1].set_metainfo({"img_path": "rgb.tif"})
    with pytest.raises(ValueError, match=r"rgb.tif has 3 bands, but mean and std of the data preprocessor are for 4"):
        build(mean=[0.0] * 4, std=[1.0] * 4)(data)
    with pytest.raises(ValueError, match=r"an image has 1 bands, .* for 3"):
        build(mean=[0.0] * 3, std=[1.0] * 3)(batch((1, 8, 8)))


def scene(bands: int, dtype: type) -> dict:
    """Band b is b + 1 outside and 1000 (b + 1) inside the box and mask x 8..20, y 4..12."""
    image = np.ones((24, 32, bands), dtype)
    image[4:12, 8:20] = 1000 if dtype != np.uint8 else 50
    image *= np.arange(1, bands + 1, dtype=dtype)
    mask = np.zeros((1, 24, 32), np.uint8)
    mask[0, 4:12, 8:20] = 1
    return {
        "img": image,
        "img_shape": (24, 32),
        "ori_shape": (24, 32),
        "gt_bboxes": HorizontalBoxes(torch.tensor([[8.0, 4.0, 20.0, 12.0]])),
        "gt_bboxes_labels": np.zeros(1, np.int64),
        "gt_ignore_flags": np.zeros(1, bool),
        "gt_masks": BitmapMasks(mask, 24, 32),
    }


TYPES = [(1, np.uint8), (3, np.uint8), (4, np.uint16), (4, np.float32)]


@pytest.mark.parametrize(("bands", "dtype"), [*TYPES, (6, np.float32), (13, np.float32)])
@pytest.mark.parametrize(
    "transform",
    [
        dict(type="Resize", scale_factor=2.0, keep_ratio=True),
        dict(type="Resize", scale=(64, 64), keep_ratio=True, interpolation="bicubic"),
        dict(type="RandomResize", scale=(32, 32), ratio_range=(1.5, 2.0), keep_ratio=True),
        dict(type="dynamicvis.RandomScale", ratio_range=(1.2, 2.0)),
        dict(type="RandomCrop", crop_size=(20, 26)),
        dict(type="RandomFlip", prob=1.0, direction="horizontal"),
        dict(type="RandomFlip", prob=1.0, direction="vertical"),
        dict(type="dynamicvis.RandomRotate90"),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_box_mask_and_bands_stay_together(bands, dtype, transform):
    for seed in range(3):
        np.random.seed(seed)  # noqa: NPY002 - the generator that data workers are seeded through
        results = scene(bands, dtype)
        inside, outside = results["img"].max((0, 1)).astype(float), results["img"].min((0, 1)).astype(float)
        results = TRANSFORMS.build(transform)(results)
        image = results["img"].reshape(*results["img_shape"], -1)
        assert image.shape[2] == bands
        left, top, right, bottom = results["gt_bboxes"].tensor[0].round().int().tolist()
        middle = image[(top + bottom) // 2, (left + right) // 2]
        np.testing.assert_allclose(middle, inside, rtol=0.05)
        np.testing.assert_allclose(image[0, 0] if top > 3 else image[-1, -1], outside, atol=inside.max() * 0.1)
        mask = results["gt_masks"].masks[0]
        assert mask.shape == results["img_shape"]
        rows, columns = np.nonzero(mask)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found, [left, top, right, bottom], atol=1)


@pytest.mark.parametrize(("bands", "dtype"), TYPES)
def test_padding_has_a_value_of_its_own_for_every_band(bands, dtype):
    values = tuple(range(7, 7 + bands))
    results = scene(bands, dtype)
    results = TRANSFORMS.build(dict(type="Pad", size=(40, 40), pad_val=dict(img=values if bands > 1 else 7)))(results)
    image = results["img"].reshape(40, 40, -1)
    assert image.dtype == dtype
    assert (image[24:] == values).all()
    assert (image[:24, 32:] == values).all()
    assert results["gt_masks"].masks[0].sum() == 8 * 12


def test_rotation_takes_no_polygons():
    results = scene(3, np.uint8)
    results["gt_masks"] = PolygonMasks([[np.array([1.0, 1, 5, 1, 5, 5])]], 24, 32)
    with pytest.raises(TypeError, match="poly2mask"):
        RandomRotate90().transform(results)


def test_jitter_keeps_to_the_range_of_sixteen_bits():
    image = np.random.default_rng(0).integers(0, 9000, (20, 24, 4)).astype(np.float32)
    means = set()
    for seed in range(10):
        np.random.seed(seed)  # noqa: NPY002
        jitter = RadiometricJitter(gain=0.3, gamma=1.5, gray_prob=0.0, noise=60.0, peak=10000.0)
        changed = jitter.transform({"img": image.copy()})["img"]
        assert changed.shape == image.shape
        assert changed.min() >= 0
        assert 5000 < changed.max() <= 10000
        means.add(float(changed.mean()))
    assert len(means) == 10
    still = RadiometricJitter(gain=0.0, gamma=1.0, gray_prob=0.0, blur=0.0, noise=0.0, peak=10000.0)
    np.testing.assert_allclose(still.transform({"img": image.copy()})["img"], image, rtol=1e-5)


def test_packed_inputs_keep_bands_and_type():
    results = {**scene(4, np.float32), "img_id": 1, "img_path": "x"}
    packed = TRANSFORMS.build(dict(type="PackDetInputs", meta_keys=("img_id",)))(results)
    assert packed["inputs"].shape == (4, 24, 32)
    assert packed["inputs"].dtype == torch.float32
    assert packed["inputs"][3, 5, 10] == 4000
