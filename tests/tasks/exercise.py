"""One short life of a config through the scripts a user calls: train, validate, save, resume, test."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tools_helpers import ROOT, tool


@dataclass(frozen=True)
class Life:
    """What is left of it.

    Attributes:
        metrics: of ``tools/test.py``.
        validation: of the last validation in training.
        work: work folder; pictures and predictions of the test lie below ``work / "out"``.
    """

    metrics: dict[str, float]
    validation: dict[str, Any]
    work: Path


def exercise(config: str, data: Path, work: Path, *options: str) -> Life:
    """Two iterations, validation, checkpoint; resume for two more; test.

    Args:
        config: path below ``configs/``; trained by epochs of two iterations, which ``options`` see to.
        data: folder that holds the folders of the data sets.
        work: work folder.
        options: as of ``--cfg-options``; they must leave a batch size that makes an epoch of two iterations.
    """
    path = str(ROOT / "configs" / config)
    shared = ["--work-dir", str(work), "--cfg-options", "default_hooks.logger.interval=1", "log_level=ERROR", *options]
    length = ["train_cfg.val_interval=1", "default_hooks.checkpoint.interval=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICVIS_DATA", str(data))
        # MMEngine lays the config out for the eye at every checkpoint: four fifths of such a life.
        patch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, False))
        tool("train")([path, *shared, *length, "train_cfg.max_epochs=1"])
        first = _load(work / "epoch_1.pth")
        assert (first["meta"]["epoch"], first["meta"]["iter"]) == (1, 2)
        tool("train")([path, "--resume", *shared, *length, "train_cfg.max_epochs=2"])
        second = _load(work / "epoch_2.pth")
        assert (second["meta"]["epoch"], second["meta"]["iter"]) == (2, 4)
        assert any(not torch.equal(first["state_dict"][key], value) for key, value in second["state_dict"].items())
        tool("test")([path, str(work / "epoch_2.pth"), "--out", str(work / "out"), *shared])
    lines = [
        json.loads(line)
        for path in sorted(work.glob("*/vis_data/scalars.json"))
        for line in path.read_text().splitlines()
    ]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)
    validation = [line for line in lines if "loss" not in line and "step" in line]
    return Life(json.loads((work / "metrics.json").read_text()), validation[-1] if validation else {}, work)


def _load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=False)
