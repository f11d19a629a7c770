"""Buildings and roads: every config lives once, on data in each data set's own layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from exercise import exercise
from PIL import Image
from segmentation_data import write_massachusetts, write_oam, write_road_windows, write_whu
from tools_helpers import ROOT, tool

from dynamicvis.data.raster import DataError, write_raster
from dynamicvis.mm.datasets.segmentation import MassachusettsRoads, SegmentationFolder, WHUBuilding

NARROW = [
    "model.backbone.arch=test_nano",
    "model.backbone.img_size=64",
    "model.neck.in_channels=[16,32,48,64]",
    "model.neck.out_channels=16",
    "model.decode_head.in_channels=[16,16,16,16]",
    "model.decode_head.channels=16",
    "model.auxiliary_head.in_channels=16",
    "model.auxiliary_head.channels=16",
    "model.data_preprocessor.size=(64,64)",
    "model.test_cfg.crop_size=(64,64)",
    "model.test_cfg.stride=(32,32)",
    "train_dataloader.batch_size=2",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
]
# The warm-up of the published schedule is longer than this life.
SHORT = ["param_scheduler.0.end=1", "param_scheduler.1.begin=0"]


def crops(path: str, resize: str) -> list[str]:
    """Options that make a training pipeline one of 64 pixels."""
    return [f"{path}.2.{resize}", f"{path}.3.crop_size=(64,64)", f"{path}.8.size=(64,64)"]


def check(metrics: dict[str, float], validation: dict[str, float], foreground: str) -> None:
    names = {
        f"seg/{figure}_{name}" for figure in ("IoU", "F1", "precision", "recall") for name in ("background", foreground)
    }
    assert names | {"seg/mIoU", "seg/mF1", "seg/accuracy"} <= metrics.keys()
    assert 0 < metrics["seg/accuracy"] <= 1
    assert 0 < validation["seg/accuracy"] <= 1


def test_whu_building(tmp_path: Path) -> None:
    write_whu(tmp_path, {"train": 4, "val": 2, "test": 2})
    train = "train_dataloader.dataset.pipeline"
    options = crops(train, "scale=(64,64)")
    options += [f"{split}_dataloader.dataset.pipeline.1.scale=(64,64)" for split in ("val", "test")]
    life = exercise(
        "building_extraction/dynamicvis-nano_upernet_whu-building.py",
        tmp_path,
        tmp_path / "work",
        *NARROW,
        *SHORT,
        *options,
    )
    check(life.metrics, life.validation, "building")
    assert list(life.work.glob("best_seg_IoU_building_epoch_*.pth"))
    content = json.loads((life.work / "out/predictions.json").read_text())
    assert content["classes"] == ["background", "building"]
    assert len(content["maps"]) == 2
    for entry in content["maps"]:
        values = np.array(Image.open(life.work / "out" / entry["map"]))
        assert values.shape == (64, 64)
        assert set(np.unique(values)) <= {0, 1}


def test_massachusetts_roads(tmp_path: Path) -> None:
    write_massachusetts(tmp_path, {"train": 4, "valid": 1, "test": 1}, size=48)
    options = crops("train_dataloader.dataset.pipeline", "scale_factor=2.0")
    life = exercise(
        "road_segmentation/dynamicvis-nano_upernet_massachusetts-roads.py",
        tmp_path,
        tmp_path / "work",
        *NARROW,
        *SHORT,
        *options,
    )
    check(life.metrics, life.validation, "road")


def test_oam_buildings(tmp_path: Path) -> None:
    source = write_oam(tmp_path / "source", height=384, width=512)
    out = tmp_path / "oam-buildings"
    tiles = ["--tile", "96", "--stride", "64"]
    assert tool("prepare_data")(["oam-buildings", "--source", str(source), "--out", str(out), *tiles]) == 0
    path = "train_dataloader.dataset.pipeline"
    options = [*crops(path, "scale=(64,64)"), "train_dataloader.batch_size=4"]
    life = exercise(
        "building_extraction/dynamicvis-nano_upernet_oam-buildings.py", tmp_path, tmp_path / "work", *NARROW, *options
    )
    check(life.metrics, life.validation, "building")


def test_massachusetts_roads_windows(tmp_path: Path) -> None:
    source = write_road_windows(tmp_path / "source", scenes=5, windows=2)
    assert (
        tool("prepare_data")(
            [
                "massachusetts-roads-windows",
                "--source",
                str(source),
                "--out",
                str(tmp_path / "massachusetts-roads-windows"),
            ]
        )
        == 0
    )
    path = "train_dataloader.dataset.dataset.pipeline"
    options = crops(path, "scale=(64,64)")
    options += ["train_dataloader.dataset.times=1", "train_dataloader.batch_size=3"]
    life = exercise(
        "road_segmentation/dynamicvis-nano_upernet_massachusetts-roads-windows.py",
        tmp_path,
        tmp_path / "work",
        *NARROW,
        *options,
    )
    check(life.metrics, life.validation, "road")


def test_splits_are_those_of_the_publication(tmp_path: Path) -> None:
    massachusetts = write_massachusetts(tmp_path, {"train": 3, "valid": 2, "test": 1})
    whu = write_whu(tmp_path, {"train": 3, "val": 2, "test": 1})
    for dataset, root, folder in ((MassachusettsRoads, massachusetts, "valid"), (WHUBuilding, whu, "val")):
        sizes = {split: len(dataset(data_root=str(root), split=split)) for split in ("train", "val", "test")}
        assert sizes == {"train": 3, "val": 2, "test": 1}
        first = dataset(data_root=str(root), split="val").get_data_info(0)
        assert f"/{folder}/" in first["img_path"]
        assert Path(first["img_path"]).stem == Path(first["seg_map_path"]).stem
        with pytest.raises(ValueError, match=r"splits train, val, test, and no 'valid'"):
            dataset(data_root=str(root), split="valid")


def test_an_empty_split_and_a_missing_mask_are_named(tmp_path: Path) -> None:
    root = write_whu(tmp_path, {"train": 2, "val": 0, "test": 1})
    with pytest.raises(DataError, match=r"whu-building/val/image holds no image"):
        WHUBuilding(data_root=str(root), split="val")
    (root / "train/label/1.tif").unlink()
    with pytest.raises(DataError, match=r"train/image/1\.tif has no mask"):
        WHUBuilding(data_root=str(root), split="train")
    with pytest.raises(DataError, match=r"absent/images is no folder"):
        SegmentationFolder(metainfo=dict(classes=("a", "b")), data_root=str(root / "absent"))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((64, 64), 7, np.uint8), r"train/label/0\.tif holds the value 7, which is no class"),
        (
            np.zeros((60, 64), np.uint8),
            r"train/label/0\.tif is 64 x 60 pixels and its image .*train/image/0\.tif 64 x 64",
        ),
    ],
)
def test_bad_masks_stop_the_training_by_name(mask: np.ndarray, message: str, tmp_path: Path) -> None:
    root = write_whu(tmp_path, {"train": 2, "val": 1, "test": 1})
    for index in range(2):
        write_raster(root / f"train/label/{index}.tif", mask)
    train = "train_dataloader.dataset.pipeline"
    options = [*crops(train, "scale=(64,64)"), "train_dataloader.sampler.shuffle=False"]
    options += [f"{split}_dataloader.dataset.pipeline.1.scale=(64,64)" for split in ("val", "test")]
    config = "building_extraction/dynamicvis-nano_upernet_whu-building.py"
    with pytest.raises(SystemExit, match=message):
        exercise(config, tmp_path, tmp_path / "work", *NARROW, *SHORT, *options)


def test_a_damaged_image_is_skipped_on_demand_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_whu(tmp_path, {"train": 4, "val": 1, "test": 1})
    (root / "train/image/2.tif").write_bytes(b"damaged")
    monkeypatch.setenv("DYNAMICVIS_DATA", str(tmp_path))
    config = ROOT / "configs/building_extraction/dynamicvis-nano_upernet_whu-building.py"
    options = [*NARROW, *SHORT, *crops("train_dataloader.dataset.pipeline", "scale=(64,64)"), "train_cfg.max_epochs=1"]
    arguments = [str(config), "--work-dir", str(tmp_path / "work"), "--cfg-options", *options]
    with pytest.raises(SystemExit, match=r"error: .*train/image/2\.tif cannot be read"):
        tool("train")(arguments)
    tool("train")([*arguments, "train_dataloader.dataset.pipeline.0.on_error=skip"])
    said = "".join(path.read_text() for path in (tmp_path / "work").glob("*/*.log"))
    assert "skipped: " in said
    assert "times in this epoch an image could not be read" in said
