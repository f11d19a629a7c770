from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tools_helpers import BOXES, ROOT, SOURCES, Run, repeats, tool


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the DeepForest wheel's: four small images with PASCAL VOC boxes, dark trees on noise."""
    folder = tmp_path_factory.mktemp("wheel") / "data"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, (suffix, width, height) in SOURCES.items():
        image = generator.integers(150, 256, (height, width, 3)).astype(np.uint8)
        objects = ""
        for left, top, right, bottom, label in BOXES[name]:
            image[top:bottom, left:right] = generator.integers(0, 80, (bottom - top, right - left, 3))
            corners = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
            objects += f"<object><name>{label}</name><bndbox>{corners}</bndbox></object>"
        assert cv2.imwrite(str(folder / f"{name}{suffix}"), image)
        (folder / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    return folder


@pytest.fixture(scope="session")
def trained(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One epoch of the tree config with the test backbone, on the synthetic data."""
    folder = tmp_path_factory.mktemp("run")
    config = folder / "tiny.py"
    config.write_text(
        f'_base_ = "{ROOT}/configs/tree_detection/dynamicvis-nano_fcos_neon-trees.py"\n'
        "model = dict(\n"
        "    backbone=dict(arch='test_nano', img_size=64, noise=dict(start=0.1, end=0.0)),\n"
        "    neck=dict(in_channels=[16, 32, 48, 64]),\n"
        "    test_cfg=dict(score_thr=0.0),\n"
        ")\n"
        "train_cfg = dict(max_epochs=1, val_interval=1)\n"
        "train_dataloader = dict(batch_size=2)\n"
        "default_hooks = dict(logger=dict(interval=1))\n"
        "log_level = 'ERROR'\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert tool("prepare_data")(["neon-trees", "--out", "data/neon-trees", "--source", str(source)]) == 0
        tool("train")([str(config), "--work-dir", "work", *repeats()])
    return Run(folder, config, folder / "work")
