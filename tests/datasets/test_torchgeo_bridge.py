"""torchgeo's own classes on small data in their layouts."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchgeo.datasets
from mmengine.config import Config, ConfigDict
from mmengine.dataset import ConcatDataset, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from PIL import Image
from scene_layouts import write_bigearthnet, write_scenes
from tools_helpers import ROOT
from torchgeo.datasets import NonGeoDataset

from dynamicvis.data.preparation.scenes import UCMERCED_CLASSES
from dynamicvis.data.raster import DataError
from dynamicvis.data.torchgeo_bridge import TorchGeoSource
from dynamicvis.registry import DATASETS, MODELS

GENERATOR = np.random.default_rng(0)


def build(scope: str, pack: dict[str, Any], *more: dict[str, Any], **settings: Any) -> Any:
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build({"type": "dynamicvis.TorchGeo", "pipeline": [*more, pack], **settings})


@pytest.fixture(scope="module")
def ucmerced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ucmerced")
    write_scenes(root / "UCMerced_LandUse" / "Images", UCMERCED_CLASSES, "{cls}{index:02d}.tif", per_class=3)
    for split, numbers in (("train", (0, 1)), ("val", (2,)), ("test", ())):
        names = [f"{cls}{number:02d}.tif\n" for cls in UCMERCED_CLASSES for number in numbers]
        (root / f"uc_merced-{split}.txt").write_text("".join(names))
    return root


@pytest.fixture(scope="module")
def deepglobe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("deepglobe")
    for folder in ("images", "masks"):
        (root / "data" / "training_data" / folder).mkdir(parents=True)
    for number in range(3):
        image = GENERATOR.integers(0, 256, (64, 96, 3)).astype(np.uint8)
        Image.fromarray(image).save(root / f"data/training_data/images/{number}_sat.jpg")
        mask = np.zeros((64, 96, 3), np.uint8)
        mask[:, :48] = (0, 255, 255)  # urban
        mask[:, 48:] = (0, 0, 255)  # water
        Image.fromarray(mask).save(root / f"data/training_data/masks/{number}_mask.png")
    return root


@pytest.fixture(scope="module")
def levircd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("levircd")
    for folder, value in (("A", 10), ("B", 20)):
        (root / folder).mkdir()
        image = np.full((64, 64, 3), value, np.uint8) + np.arange(3, dtype=np.uint8)
        Image.fromarray(image).save(root / folder / "train_1.png")
    (root / "label").mkdir()
    mask = np.zeros((64, 64), np.uint8)
    mask[:10] = 255
    Image.fromarray(mask).save(root / "label" / "train_1.png")
    return root


@pytest.fixture(scope="module")
def vhr10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vhr10")
    folder = root / "NWPU VHR-10 dataset"
    images, annotations = [], []
    for split in ("positive", "negative"):
        (folder / f"{split} image set").mkdir(parents=True)
        for number in range(1, 3):
            image = GENERATOR.integers(0, 256, (64, 96, 3)).astype(np.uint8)
            Image.fromarray(image).save(folder / f"{split} image set" / f"{number:03d}.jpg")
    for number in range(2):
        images.append({"id": number, "file_name": f"{number + 1:03d}.jpg", "height": 64, "width": 96})
        for left, category in ((4, 1), (40, 10)):
            polygon = [left, 8, left + 20, 8, left + 20, 24, left, 24]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": category, "bbox": [left, 8, 20, 16]}
                | {"segmentation": [polygon], "area": 320, "iscrowd": 0}
            )
    categories = [{"id": number, "name": str(number)} for number in range(1, 11)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    (root / "NWPU VHR-10 dataset.zip").touch()
    return root


def test_classification(ucmerced):
    pack = {"type": "PackInputs"}
    dataset = build("mmpretrain", pack, name="UCMerced", root=str(ucmerced), split="train")
    assert len(dataset) == 42
    assert dataset.metainfo["classes"] == UCMERCED_CLASSES
    original = torchgeo.datasets.UCMerced(str(ucmerced), split="train")
    for index in (0, 41):
        sample, expected = dataset[index], original[index]
        torch.testing.assert_close(sample["inputs"], expected["image"])
        assert sample["data_samples"].gt_label.tolist() == [int(expected["label"])]
        assert sample["data_samples"].img_shape == (256, 256)
        assert sample["data_samples"].img_path == f"UCMerced-{index}"


def test_several_labels_an_image(tmp_path):
    labels = [("Vineyards", "Pastures"), ("Airports", "Sea and ocean")]
    write_bigearthnet(tmp_path, {"train": labels, "val": labels, "test": labels})
    settings = {"name": "BigEarthNet", "root": str(tmp_path), "split": "val", "bands": "s2", "num_classes": 19}
    dataset = build("mmpretrain", {"type": "PackInputs"}, **settings)
    names = [[dataset.metainfo["classes"][n] for n in sample["data_samples"].gt_label.tolist()] for sample in dataset]
    assert names == [["Permanent crops", "Pastures"], ["Marine waters"]]
    assert dataset[0]["inputs"].shape == (12, 120, 120)


def test_segmentation(deepglobe):
    pack = {"type": "PackSegInputs"}
    dataset = build("mmseg", pack, {"type": "RandomFlip", "prob": 1.0}, name="DeepGlobeLandCover", root=str(deepglobe))
    assert dataset.metainfo["classes"][4] == "Water"
    sample = dataset[1]
    original = torchgeo.datasets.DeepGlobeLandCover(str(deepglobe))[1]
    torch.testing.assert_close(sample["inputs"], original["image"].flip(2))
    mask = sample["data_samples"].gt_sem_seg.data
    assert mask.shape == (1, 64, 96)
    torch.testing.assert_close(mask[0].long(), original["mask"].flip(1))
    assert mask.unique().tolist() == [0, 4]


def test_segmentation_trains_a_segmentor(deepglobe):
    dataset = build("mmseg", {"type": "PackSegInputs"}, name="DeepGlobeLandCover", root=str(deepglobe))
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(
            {
                "type": "mmseg.EncoderDecoder",
                "data_preprocessor": {"type": "mmseg.SegDataPreProcessor", "mean": [120.0] * 3, "std": [60.0] * 3}
                | {"size": (64, 96)},
                "backbone": {"type": "dynamicvis.DynamicVis", "arch": "test_nano"},
                "decode_head": {
                    "type": "mmseg.FCNHead",
                    "in_channels": 64,
                    "channels": 8,
                    "num_classes": len(dataset.metainfo["classes"]),
                },
            }
        )
        batch = model.data_preprocessor(pseudo_collate([dataset[0], dataset[1]]), training=True)
        losses = model(**batch, mode="loss")
    assert torch.isfinite(losses["decode.loss_ce"])


def test_change_detection_puts_the_dates_one_behind_the_other(levircd):
    dataset = build("mmseg", {"type": "PackSegInputs"}, name="LEVIRCD", root=str(levircd), split="train")
    assert dataset.metainfo["classes"] == ("unchanged", "changed")
    sample = dataset[0]
    assert sample["inputs"].shape == (6, 64, 64)
    assert sample["inputs"][:, 0, 0].tolist() == [10, 11, 12, 20, 21, 22]
    mask = sample["data_samples"].gt_sem_seg.data[0]
    assert mask[:10].unique().tolist() == [1]
    assert mask[10:].unique().tolist() == [0]


def test_change_detection_trains_the_siamese_model(levircd):
    dataset = build("mmseg", {"type": "PackSegInputs"}, name="LEVIRCD", root=str(levircd), split="train")
    config = Config.fromfile(ROOT / "configs/change_detection/dynamicvis-nano_siamese-unet_levir-cd.py").model
    config.backbone.img_size = 64
    config.data_preprocessor.size = (64, 64)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = revert_sync_batchnorm(MODELS.build(config))
        batch = model.data_preprocessor(pseudo_collate([dataset[0], dataset[0]]), training=True)
        losses = model(**batch, mode="loss")
    assert all(torch.isfinite(loss) for name, loss in losses.items() if "loss" in name)


def test_detection(vhr10):
    keys = ("img_id", "ori_shape", "img_shape", "instances", "flip", "flip_direction")
    pack = {"type": "PackDetInputs", "meta_keys": keys}
    dataset = build("mmdet", pack, {"type": "RandomFlip", "prob": 1.0}, name="VHR10", root=str(vhr10))
    assert len(dataset.metainfo["classes"]) == 10
    sample = dataset[1]["data_samples"]
    assert [dataset.metainfo["classes"][n] for n in sample.gt_instances.labels] == ["airplane", "vehicle"]
    assert sample.gt_instances.bboxes.tensor.tolist() == [[72, 8, 92, 24], [36, 8, 56, 24]]
    masks = sample.gt_instances.masks.to_ndarray()
    assert masks.shape == (2, 64, 96)
    assert masks[0, 8:24, 72:92].mean() > 0.9
    assert masks[0].sum() == masks[0, 7:25, 71:93].sum()
    assert [instance["bbox_label"] for instance in sample.instances] == [0, 9]


def test_classes_of_objects_can_be_renamed(vhr10):
    names = tuple("abcdefghij")
    source = TorchGeoSource("VHR10", classes=names, root=str(vhr10))
    assert [source.classes[label] for label in source[0].labels] == ["a", "j"]


def test_images_without_objects(vhr10):
    dataset = build("mmdet", {"type": "PackDetInputs"}, name="VHR10", root=str(vhr10), split="negative", indices=2)
    assert len(dataset) == 2
    objects = dataset[1]["data_samples"].gt_instances
    assert objects.bboxes.tensor.shape == (0, 4)
    assert len(objects.masks) == 0


def test_detection_trains_and_evaluates_a_detector(vhr10):
    from mmdet.evaluation import CocoMetric

    keys = ("img_id", "ori_shape", "img_shape", "scale_factor", "instances")
    resize = {"type": "Resize", "scale_factor": 1.0, "keep_ratio": True}
    dataset = build("mmdet", {"type": "PackDetInputs", "meta_keys": keys}, resize, name="VHR10", root=str(vhr10))
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(
            ConfigDict(
                type="mmdet.FCOS",
                data_preprocessor=dict(type="mmdet.DetDataPreprocessor", mean=[120.0] * 3, std=[60.0] * 3),
                backbone=dict(type="dynamicvis.DynamicVis", arch="test_nano"),
                neck=dict(type="mmdet.FPN", in_channels=[16, 32, 48, 64], out_channels=16, num_outs=5),
                bbox_head=dict(
                    type="mmdet.FCOSHead",
                    num_classes=10,
                    in_channels=16,
                    feat_channels=32,
                    strides=[4, 8, 16, 32, 64],
                ),
                test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10),
            )
        )
        batch = pseudo_collate([dataset[0], dataset[1]])
        losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
        assert all(torch.isfinite(loss) for loss in losses.values())
        predictions = model.eval().test_step(pseudo_collate([dataset[0], dataset[1]]))
    metric = CocoMetric(metric="bbox")
    metric.dataset_meta = dataset.metainfo
    # The truth itself, as predictions.
    for prediction, sample in zip(predictions, (dataset[0], dataset[1]), strict=True):
        truth = sample["data_samples"].gt_instances
        prediction.pred_instances = type(prediction.pred_instances)(
            bboxes=truth.bboxes.tensor, labels=truth.labels, scores=torch.ones(len(truth))
        )
    metric.process({}, [prediction.to_dict() for prediction in predictions])
    assert metric.evaluate(2)["coco/bbox_mAP"] == 1.0


def test_works_inside_a_concatenation_with_roles(ucmerced):
    pack = {"type": "PackInputs", "meta_keys": ("role",)}
    parts = [
        build("mmpretrain", pack, name="UCMerced", root=str(ucmerced), split=split, role=role)
        for split, role in (("train", "database"), ("val", "query"))
    ]
    both = ConcatDataset(parts)
    assert len(both) == 63
    assert [both[index]["data_samples"].role for index in (0, 62)] == ["database", "query"]
    assert both.metainfo["classes"] == UCMERCED_CLASSES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "UCMercd"}, r"torchgeo has no data set 'UCMercd'; did you mean UCMerced"),
        ({"name": "levircd"}, r"torchgeo has no data set 'levircd'; did you mean .*LEVIRCD"),
        ({"name": "qqqqqqqq"}, r"no data set 'qqqqqqqq'; torchgeo.datasets lists them"),
        ({"name": "Sentinel2"}, "Sentinel2 is sampled by place, not by number"),
        (
            {"name": "UCMerced", "root": "absent"},
            r"not where root='absent' says .*t.UCMerced\(root='absent', download=T",
        ),
        ({"name": "UCMerced", "colour": 1}, r"UCMerced cannot be opened with colour=1 \(TypeError.*unexpected keyword"),
    ],
)
def test_what_cannot_be_opened_is_named(settings, message):
    with pytest.raises(DataError, match=message):
        TorchGeoSource(**settings)


def test_a_wrong_split_names_the_splits(ucmerced):
    with pytest.raises(DataError, match=r"cannot be opened with .*split='tset'.*its splits are train, val, test"):
        TorchGeoSource("UCMerced", root=str(ucmerced), split="tset")
    with pytest.raises(DataError, match="UCMerced"):
        TorchGeoSource("UCMerced", root=str(ucmerced), split="test")


def test_a_damaged_file_is_named_by_its_sample(levircd, tmp_path):
    for folder in ("A", "B", "label"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train_1.png").write_bytes((levircd / folder / "train_1.png").read_bytes())
        (tmp_path / folder / "train_2.png").write_bytes(b"no image")
    source = TorchGeoSource("LEVIRCD", root=str(tmp_path), split="train")
    with pytest.raises(DataError, match=r"sample 1 of torchgeo's LEVIRCD cannot be read \(UnidentifiedImageError"):
        source[1]


def test_without_torchgeo_says_how_to_get_it(monkeypatch):
    original = builtins.__import__

    def absent(name: str, *args: Any) -> Any:
        if name.startswith("torchgeo"):
            raise ModuleNotFoundError("No module named 'torchgeo'")
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DataError, match=r"UCMerced comes with torchgeo.*pip install 'dynamicvis\[torchgeo\]'"):
        TorchGeoSource("UCMerced")


class Fake(NonGeoDataset):
    """A data set of one sample, which a test sets."""

    sample: dict[str, Any]

    def __init__(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.sample


IMAGE = torch.zeros(3, 8, 8)
MASK = torch.zeros(8, 8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("sample", "attributes", "message"),
    [
        ({"image": IMAGE, "mask": MASK + 3}, {"classes": ["a", "b"]}, r"value 3 in its mask, .* 2 classes \(a, b\)"),
        ({"image": IMAGE, "mask": MASK[:4]}, {"classes": ["a"]}, r"mask of shape \(4, 8\) and an image of 8 x 8"),
        ({"image": IMAGE, "mask": MASK}, {}, r"does not say what its classes are; give them as metainfo"),
        ({"image": IMAGE, "label": torch.tensor(2)}, {"classes": ["a", "b"]}, "has label 2, which is none of its 2"),
        ({"image": IMAGE, "label": torch.tensor(0.5)}, {"classes": ["a"]}, "is for another task: .* image, label"),
        ({"image": IMAGE}, {}, "is for another task: its samples hold image"),
        ({"image": IMAGE, "bbox": torch.zeros(1, 8)}, {}, 'oriented boxes.*bbox_orientation="horizontal"'),
        (
            {"image": IMAGE, "bbox_xyxy": torch.zeros(1, 4, 2), "label": torch.zeros(1)},
            {"classes": ["a"]},
            r"boxes of shape \(1, 4, 2\); needed are upright ones",
        ),
        (
            {"image": IMAGE, "bbox_xyxy": torch.zeros(2, 4), "label": torch.zeros(1)},
            {"classes": ["a"]},
            r"2 boxes and labels of shape \(1,\)",
        ),
        (
            {"image": torch.zeros(5, 3, 8, 8), "mask": MASK},
            {},
            r"change needs 2 of \(C, H, W\)",
        ),
        (
            {"image1": IMAGE, "image2": IMAGE[:, :4], "mask": MASK},
            {},
            r"\[\(3, 8, 8\), \(3, 4, 8\)\]; change needs 2 of \(C, H, W\), of one size",
        ),
        (
            {"image": torch.zeros(2, 3, 8, 8), "mask": torch.zeros(2, 8, 8)},
            {},
            r"a mask of shape \(2, 8, 8\)",
        ),
    ],
)
def test_annotations_that_do_not_fit_are_named(monkeypatch, sample, attributes, message):
    monkeypatch.setattr(torchgeo.datasets, "UCMerced", Fake)
    with pytest.raises(DataError, match=message):
        TorchGeoSource("UCMerced", sample=sample, **attributes)[0]


def test_two_images_are_two_dates(monkeypatch):
    """The keys of other data sets, and of torchgeo before 0.8."""
    monkeypatch.setattr(torchgeo.datasets, "UCMerced", Fake)
    for keys in (("image1", "image2"), ("image_pre", "image_post")):
        sample = {keys[0]: IMAGE, keys[1]: IMAGE[:1] + 1, "mask": MASK + 255}
        source = TorchGeoSource("UCMerced", sample=sample)
        assert (source.task, source.classes) == ("change", ("unchanged", "changed"))
        assert source[0].image[0, 0].tolist() == [0, 0, 0, 1]
        assert np.unique(source[0].mask).tolist() == [1]


def test_ignored_pixels_and_given_classes(monkeypatch):
    monkeypatch.setattr(torchgeo.datasets, "UCMerced", Fake)
    mask = MASK.clone()
    mask[0] = 255
    source = TorchGeoSource("UCMerced", classes=("field",), sample={"image": IMAGE, "mask": mask})
    assert np.unique(source[0].mask).tolist() == [0, 255]
    assert source.classes == ("field",)


def test_boxes_of_a_single_class_need_no_labels(monkeypatch):
    monkeypatch.setattr(torchgeo.datasets, "UCMerced", Fake)
    sample = {"image": IMAGE, "bbox_xyxy": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    source = TorchGeoSource("UCMerced", classes=("debris",), sample=sample)
    assert source[0].labels.tolist() == [0]
    empty = TorchGeoSource("UCMerced", classes=("debris",), sample=sample | {"bbox_xyxy": torch.zeros(0)})
    assert empty[0].boxes.shape == (0, 4)
