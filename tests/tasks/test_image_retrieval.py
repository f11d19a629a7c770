"""The configs for image retrieval, through tools/test.py, on data made by code."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from scene_layouts import write_bigearthnet, write_forestnet, write_scenes
from tools_helpers import ROOT, tool

from dynamicvis.data.preparation.scenes import UCMERCED_CLASSES
from dynamicvis.mm.metrics.features import FrozenFeatureMetric, RetrievalMetric
from dynamicvis.registry import MODELS

FOLDER = ROOT / "configs" / "image_retrieval"
CONFIGS = sorted(path.stem for path in FOLDER.glob("dynamicvis-*.py"))
FIGURES = {f"retrieval/{code}/{name}@20" for code in ("float", "binary", "64bit") for name in ("mAP", "P")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets as published, each with a database of at least 20 images."""
    root = tmp_path_factory.mktemp("data")
    images = root / "ucmerced/UCMerced_LandUse/Images"
    write_scenes(images, UCMERCED_CLASSES, "{cls}{index:02d}.tif", per_class=9, size=16)
    assert tool("prepare_data")(["ucmerced", "--source", str(images), "--out", str(root / "ucmerced/splits")]) == 0
    labels = [("Vineyards", "Pastures"), ("Airports", "Sea and ocean")]
    (root / "bigearthnet").mkdir()
    write_bigearthnet(root / "bigearthnet", {"val": labels, "test": labels * 10})
    pairs = [("Oil palm plantation", "Plantation"), ("Mining", "Other")]
    write_forestnet(root / "forestnet", {"val": pairs, "test": pairs * 10})
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's checkpoint whose backbone is as constructed, with a head that retrieval ignores."""
    torch.manual_seed(0)
    backbone = MODELS.build({"type": "dynamicvis.DynamicVis", "arch": "nano", "img_size": 64})
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "epoch_1.pth"
    torch.save({"state_dict": {**state, "head.fc.weight": torch.zeros(21, 256)}, "meta": {}}, path)
    return path


def evaluate(name: str, checkpoint: Path, data: Path, work: Path, *options: str) -> dict[str, float]:
    resize = 2 if "bigearthnet" in name else 1
    small = [
        *(f"test_dataloader.dataset.datasets.{part}.pipeline.{resize}.scale=(64,64)" for part in (0, 1)),
        "test_dataloader.num_workers=0",
        "model.backbone.img_size=64",
        "log_level=ERROR",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICVIS_DATA", str(data))
        path = str(FOLDER / f"{name}.py")
        shared = ["--work-dir", str(work), "--out", str(work / "out"), "--cfg-options", *small, *options]
        tool("test")([path, str(checkpoint), *shared])
    return json.loads((work / "metrics.json").read_text())


@pytest.mark.parametrize("dataset", ["bigearthnet43", "bigearthnet19", "forestnet12", "forestnet4", "ucmerced"])
def test_evaluates_any_checkpoint(dataset, data, checkpoint, tmp_path):
    metrics = evaluate(f"dynamicvis-nano_embedding_{dataset}", checkpoint, data, tmp_path)
    assert set(metrics) == FIGURES
    assert all(0 <= value <= 1 for value in metrics.values())
    if dataset.startswith("forestnet"):
        # Two classes of ten images each, told apart by their colour: ten hits, then ten misses.
        assert metrics["retrieval/float/P@20"] == pytest.approx(0.5)
        assert metrics["retrieval/float/mAP@20"] == pytest.approx(1.0)
    if dataset == "bigearthnet19":
        # The second patch of a pair has "Marine waters" alone, the first two labels; none are shared.
        assert metrics["retrieval/float/P@20"] == pytest.approx(0.5)


def test_similar_images_come_first(data, checkpoint, tmp_path):
    metrics = evaluate("dynamicvis-nano_embedding_ucmerced", checkpoint, data, tmp_path, "test_evaluator.k=3")
    assert metrics["retrieval/float/mAP@3"] > 0.6
    assert metrics["retrieval/float/mAP@3"] > metrics["retrieval/64bit/mAP@3"]
    # What was retrieved is written too, the best 20 of each query.
    assert (tmp_path / "out" / "sheet.png").is_file()
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if int(line["rank"]) <= 3]
    hits = [line["truth"] == line["labels"] for line in lines]
    assert sum(hits) / len(hits) == pytest.approx(metrics["retrieval/float/P@3"])


def test_a_checkpoint_of_another_backbone_is_refused(data, checkpoint, tmp_path):
    with pytest.raises(SystemExit, match=r"does not fit the backbone: .*pos_embed has shape .*, needed is"):
        evaluate("dynamicvis-base_embedding_ucmerced", checkpoint, data, tmp_path)
    head = tmp_path / "head.pth"
    torch.save({"state_dict": {"head.fc.weight": torch.zeros(21, 256)}, "meta": {}}, head)
    with pytest.raises(SystemExit, match=r"parameters, backbone\.pos_embed is not in it"):
        evaluate("dynamicvis-nano_embedding_ucmerced", head, data, tmp_path)
    with pytest.raises(SystemExit, match=r"pos_embed has shape \(1, 256, 32\), needed is \(1, 1024, 32\)"):
        evaluate("dynamicvis-nano_embedding_ucmerced", checkpoint, data, tmp_path, "model.backbone.img_size=128")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds(name):
    config = Config.fromfile(FOLDER / f"{name}.py")
    with DefaultScope.overwrite_default_scope("mmpretrain"), torch.device("meta"):
        model = MODELS.build(config.model)
    assert model.backbone.dims[-1] == {"nano": 256, "base": 768, "large": 1024}[config.model.backbone.arch]
    assert not any(parameter.requires_grad for parameter in model.parameters())
    roles = [part.role for part in config.test_dataloader.dataset.datasets]
    lists = [part.ann_file for part in config.test_dataloader.dataset.datasets]
    assert roles == ["query", "database"]
    assert ["val" in lists[0], "test" in lists[1]] == [True, True]


def test_an_embedder_is_not_trained():
    model = MODELS.build(
        {"type": "dynamicvis.Embedder", "backbone": {"type": "dynamicvis.DynamicVis", "arch": "test_nano"}}
    )
    images = torch.zeros(1, 3, 64, 64)
    assert model(images).shape == (1, 64)
    with pytest.raises(ValueError, match="an Embedder is not trained"):
        model(images, mode="loss")


def samples(role: str | None, labels: list[int], count: int = 3) -> list[dict]:
    return [{"role": role, "embedding": torch.ones(4), "gt_label": torch.tensor(labels)} for _ in range(count)]


def test_metrics_say_what_is_missing():
    metric = RetrievalMetric(k=2)
    metric.dataset_meta = {"classes": ("a", "b")}
    with pytest.raises(ValueError, match=r"must be a query or of the database, got role=None; set role of both"):
        metric.process({}, samples(None, [0]))
    metric.process({}, samples("query", [0]))
    with pytest.raises(ValueError, match="no image has role 'database'"):
        metric.evaluate(3)
    frozen = FrozenFeatureMetric(neighbors=2)
    frozen.dataset_meta = metric.dataset_meta
    frozen.process({}, samples("query", [0]) + samples("database", [0, 1]))
    with pytest.raises(ValueError, match=r"needs one label an image, found labels \[0, 1\]"):
        frozen.evaluate(6)


def test_macro_f1_counts_classes_that_occur():
    metric = FrozenFeatureMetric(neighbors=1)
    metric.dataset_meta = {"classes": ("a", "b", "never")}
    for role, label, embedding in (
        *(("database", 0, [1.0, 0.0]), ("database", 1, [0.0, 1.0])),
        *(("query", 0, [1.0, 0.1]), ("query", 1, [1.0, 0.2]), ("query", 1, [0.1, 1.0]), ("query", 1, [0.0, 1.0])),
    ):
        sample = {"role": role, "embedding": torch.tensor(embedding), "gt_label": torch.tensor([label])}
        metric.process({}, [sample])
    results = metric.evaluate(6)
    assert results["frozen/knn/accuracy"] == pytest.approx(3 / 4)
    # Class a: precision 1/2, recall 1. Class b: precision 1, recall 2/3.
    assert results["frozen/knn/f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
