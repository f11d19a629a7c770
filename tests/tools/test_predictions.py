from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tools_helpers import Run, tool

SEGMENTATION = """
default_scope = "mmseg"
custom_imports = dict(imports=["dynamicvis.mm"])
data = dict(type="BaseSegDataset", data_root="DATA", data_prefix=dict(img_path="images", seg_map_path="labels"),
    img_suffix=".png", test_mode=True,
    metainfo=dict(classes=("ground", "house"), palette=[[10, 60, 10], [250, 200, 0]]),
    pipeline=[dict(type="LoadImageFromFile"), dict(type="Resize", scale=(64, 64)), dict(type="LoadAnnotations"),
        dict(type="PackSegInputs")])
test_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False), dataset=data)
test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_cfg = dict()
model = dict(type="EncoderDecoder", backbone=dict(type="dynamicvis.DynamicVis", arch="test_nano"),
    data_preprocessor=dict(type="SegDataPreProcessor", mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True),
    decode_head=dict(type="FCNHead", in_channels=64, in_index=3, channels=8, num_convs=1, num_classes=2,
        align_corners=False, norm_cfg=dict(type="BN")),
    train_cfg=dict(), test_cfg=dict(mode="whole"))
log_level = "ERROR"
"""

CLASSIFICATION = """
default_scope = "mmpretrain"
custom_imports = dict(imports=["dynamicvis.mm"])
data = dict(type="CustomDataset", data_root="DATA", data_prefix="scenes",
    pipeline=[dict(type="LoadImageFromFile"), dict(type="Resize", scale=(64, 64)), dict(type="PackInputs")])
test_dataloader = dict(batch_size=3, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False), dataset=data,
    collate_fn=dict(type="default_collate"))
test_evaluator = dict(type="Accuracy")
test_cfg = dict()
model = dict(type="ImageClassifier",
    backbone=dict(type="dynamicvis.DynamicVis", arch="test_nano", out_indices=(3,)),
    data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True, num_classes=2),
    neck=dict(type="GlobalAveragePooling"), head=dict(type="LinearClsHead", num_classes=2, in_channels=64))
log_level = "ERROR"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of 80 x 64 with class maps, and six scenes of two classes."""
    generator = np.random.default_rng(0)
    for name in ("images", "labels", "scenes/farm", "scenes/port"):
        (tmp_path / name).mkdir(parents=True)
    for index in range(5):
        image = generator.integers(0, 256, (64, 80, 3)).astype(np.uint8)
        image[..., 2] = 255  # red
        cv2.imwrite(str(tmp_path / f"images/scene {index}.png"), image)
        cv2.imwrite(str(tmp_path / f"labels/scene {index}.png"), generator.integers(0, 2, (64, 80)).astype(np.uint8))
    for index in range(6):
        name = ("farm", "port")[index % 2]
        cv2.imwrite(str(tmp_path / f"scenes/{name}/{index}.png"), generator.integers(0, 256, (70, 70, 3)))
    return tmp_path


def run(folder: Path, config: str, *options: str) -> Path:
    """Test a model with random weights; returns the folder of its predictions."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    path = folder / f"{folder.name}.py"  # MMEngine tells runs apart by the name of the config and the second
    path.write_text(config.replace("DATA", str(folder)))
    torch.manual_seed(0)
    settings = Config.fromfile(path)
    settings.work_dir = str(folder / "build")
    torch.save({"state_dict": Runner.from_cfg(settings).model.state_dict()}, folder / "weights.pth")
    out = folder / "out"
    tool("test")([str(path), str(folder / "weights.pth"), "--work-dir", str(folder / "w"), "--out", str(out), *options])
    return out


def sheet_of(out: Path) -> np.ndarray:
    return np.asarray(Image.open(out / "sheet.png").convert("RGB"))


def test_boxes_are_coco_results_that_score_as_the_metric_does(trained: Run, tmp_path, monkeypatch):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    monkeypatch.chdir(trained.folder)
    out = tmp_path / "out"
    arguments = [str(trained.config), str(trained.checkpoint), "--work-dir", str(tmp_path / "work"), "--out", str(out)]
    tool("test")(arguments)
    assert sorted(path.name for path in out.glob("[!.]*")) == ["predictions.json", "sheet.png"]
    truth = COCO("data/neon-trees/annotations/test.json")
    evaluation = COCOeval(truth, truth.loadRes(str(out / "predictions.json")), "bbox")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    metrics = json.loads((tmp_path / "work/metrics.json").read_text())
    assert round(float(evaluation.stats[0]), 3) == metrics["coco/bbox_mAP_50"]
    assert {result["category_id"] for result in json.loads((out / "predictions.json").read_text())} == {1}

    with pytest.raises(SystemExit, match=r"out exists already.*--overwrite"):
        tool("test")(arguments)
    (out / "sheet.png").unlink()
    tool("test")([*arguments, "--overwrite"])
    assert (out / "sheet.png").exists()


def test_class_maps_are_those_of_the_model(folder: Path):
    from mmengine.config import Config
    from mmengine.runner import Runner

    out = run(folder, SEGMENTATION)
    content = json.loads((out / "predictions.json").read_text())
    assert content["classes"] == ["ground", "house"]
    assert [Path(entry["image"]).name for entry in content["maps"]] == [f"scene {index}.png" for index in range(5)]
    config = Config.fromfile(folder / f"{folder.name}.py")
    config.work_dir, config.load_from = str(folder / "again"), str(folder / "weights.pth")
    runner = Runner.from_cfg(config)
    runner.load_or_resume()
    expected = [
        sample.pred_sem_seg.data[0].numpy()
        for batch in runner.test_dataloader
        for sample in runner.model.eval().test_step(batch)
    ]
    for index, entry in enumerate(content["maps"]):
        picture = Image.open(out / entry["map"])
        assert (picture.mode, picture.size, entry["map"]) == ("P", (80, 64), f"maps/scene {index}.png")
        np.testing.assert_array_equal(np.asarray(picture), expected[index])
        colors = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(colors, np.array(content["palette"], np.uint8)[expected[index]])


def test_sheet_shows_image_truth_and_prediction_of_each_sample(folder: Path):
    out = run(folder, SEGMENTATION)
    sheet = sheet_of(out)
    edge, gap, caption = 320, 6, 20
    assert sheet.shape == (caption + 5 * (256 + gap + caption), 3 * (edge + gap) + gap, 3)
    maps = json.loads((out / "predictions.json").read_text())["maps"]
    for row in range(5):
        top = caption + row * (256 + gap + caption)
        image, truth, prediction = (
            sheet[top : top + 256, gap + column * (edge + gap) :][:, :edge] for column in range(3)
        )
        original = cv2.imread(maps[row]["image"])[..., ::-1]
        # Four times as large; the input was resized to 64 x 51 and back, so that only the red is what it was.
        assert abs(image[..., 0].astype(int) - 255).max() <= 1
        assert abs(image[..., 1].mean() - original[..., 1].mean()) < 4
        palette = np.array([[10, 60, 10], [250, 200, 0]], np.uint8)
        label = cv2.imread(str(folder / f"labels/scene {row}.png"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(truth[2::4, 2::4], palette[label])
        np.testing.assert_array_equal(prediction[2::4, 2::4], palette[np.asarray(Image.open(out / maps[row]["map"]))])


def test_labels_are_a_table(folder: Path):
    out = run(folder, CLASSIFICATION)
    with (out / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["image", "truth", "prediction", "farm", "port"]
    assert [line["truth"] for line in lines] == [Path(line["image"]).parent.name for line in lines]
    assert len({line["image"] for line in lines}) == 6
    for line in lines:
        assert float(line["farm"]) + float(line["port"]) == pytest.approx(1, abs=1e-6)
        assert line["prediction"] == max(("farm", "port"), key=lambda name: float(line[name]))
    accuracy = 100 * np.mean([line["truth"] == line["prediction"] for line in lines])
    assert json.loads((folder / "w/metrics.json").read_text())["accuracy/top1"] == pytest.approx(accuracy)
    assert sheet_of(out).shape[0] == 20 + 6 * 346


def test_a_failing_test_leaves_nothing(folder: Path):
    (folder / "labels/scene 4.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"labels/scene 4\.png cannot be loaded .*cannot identify"):
        run(folder, SEGMENTATION)
    assert not (folder / "out").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".out")]
