"""What the tests of the scripts share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCES = {
    "2019_YELL_2_528000_4978000_image_crop2": (".png", 200, 160),
    "2019_YELL_2_541000_4977000_image_crop": (".png", 160, 120),
    "SOAP_061": (".png", 100, 90),
    "OSBS_029": (".tif", 96, 80),
}
# Left, top, right, bottom, and class names that all mean a tree.
BOXES = {
    "2019_YELL_2_528000_4978000_image_crop2": [
        (10, 10, 50, 40, "Tree"),
        (120, 80, 150, 130, "Tree"),
        (150, 120, 190, 150, "Tree"),
    ],
    "2019_YELL_2_541000_4977000_image_crop": [(20, 20, 60, 60, "Tree"), (110, 85, 150, 115, "Tree")],
    "SOAP_061": [(10, 10, 40, 40, "Alive"), (75, 30, 95, 50, "Dead"), (60, 60, 76, 80, "Dead")],
    "OSBS_029": [(5, 5, 40, 45, "Tree"), (50, 30, 90, 70, "Tree")],
}


def tool(name: str) -> Callable[[list[str]], Any]:
    """The ``main`` of a script in tools/."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@dataclass(frozen=True)
class Run:
    """A finished training: where it ran, its config file and its work folder."""

    folder: Path
    config: Path
    work: Path

    @property
    def checkpoint(self) -> Path:
        return self.work / "epoch_1.pth"


def repeats(*more: str) -> list[str]:
    """Options for an epoch of two iterations."""
    datasets = "train_dataloader.dataset.datasets"
    return ["--cfg-options", f"{datasets}.0.times=1", f"{datasets}.1.times=1", *more]
