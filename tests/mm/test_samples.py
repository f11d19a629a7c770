from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from small_runs import SmallModel, log, trained
from torch import nn

from dynamicvis.data.raster import DataError, write_raster
from dynamicvis.mm.errors import ConfigError, reported_errors
from dynamicvis.mm.samples import check_classes, check_samples, sample_problem

pytestmark = pytest.mark.usefixtures("quick_runs")
NAN = float("nan")


def scene(label: Any) -> dict[str, Any]:
    return {"inputs": torch.zeros(3, 8, 8), "data_samples": BaseDataElement(gt_label=torch.as_tensor([label]))}


def objects(box: list[float], label: Any = 0) -> dict[str, Any]:
    instances = InstanceData(bboxes=torch.tensor([[0.0, 0, 4, 4], box]), labels=torch.as_tensor([0, label]))
    return {"inputs": torch.zeros(3, 8, 8), "data_samples": BaseDataElement(gt_instances=instances)}


def pixels(value: float, size: tuple[int, int] = (8, 8), kind: torch.dtype = torch.int64) -> dict[str, Any]:
    values = torch.zeros(1, *size, dtype=kind)
    values[0, 2, 3] = value
    segments = PixelData(data=values)
    return {"inputs": torch.zeros(3, 8, 8), "data_samples": BaseDataElement(gt_sem_seg=segments)}


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        (scene(1), None),
        (scene(2), "has the label 2, and the classes are 0 to 1"),
        (scene(-1), "has the label -1"),
        (scene(0.5), "has the label 0.5, which is no class number"),
        (scene(NAN), "has the label nan"),
        (objects([0, 0, 4, 4]), None),
        (objects([2, 2, 2, 2]), None),  # what a crop leaves of a box; filters of pipelines drop it
        (objects([0, 0, NAN, 4]), "has the box"),
        (objects([0, 0, float("inf"), 4]), "has the box"),
        (objects([4, 0, 0, 4]), "has the box [4.0, 0.0, 0.0, 4.0]"),
        (objects([0, 0, 4, 4], 2), "has the label 2"),
        (pixels(1), None),
        (pixels(255), None),
        (pixels(2), "has the mask value 2, and the classes are 0 to 1"),
        (pixels(-1), "has the mask value -1"),
        (pixels(0.5, kind=torch.float32), "has the mask value 0.5"),
        (pixels(1000), "has the mask value 1000"),
        (pixels(1, (8, 6)), "has a mask of 6 x 8 pixels where its image is 8 x 8"),
    ],
)
def test_labels_that_are_none(sample, problem):
    found = sample_problem(sample, 2, {255})
    assert found is None if problem is None else problem in found
    # Without names of classes, what can be told without them.
    assert sample_problem(pixels(7), 0, {255}) is None
    # Pipelines of a test enlarge the image alone.
    tested = pixels(1, (8, 6))
    tested["data_samples"].set_metainfo({"ori_shape": (8, 6)})
    assert sample_problem(tested, 2, {255}) is None


@TRANSFORMS.register_module(force=True)
class PackSmall:
    """Last transform of the pipelines here; label 9 makes it fail."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        if results["gt_label"] == 9:
            raise KeyError("of a transform")
        sample = BaseDataElement(gt_label=torch.tensor([results["gt_label"]]))
        sample.set_metainfo({"img_path": results["img_path"]})
        mean = float(np.mean(results.get("img", 1))) / 255
        return {"inputs": torch.tensor([mean, 0.5]), "data_samples": sample}


@DATASETS.register_module(force=True)
class SmallFolder(BaseDataset):
    """Images of a folder, ``LABEL_NUMBER.tif``."""

    METAINFO: ClassVar[dict[str, Any]] = {"classes": ("a", "b")}

    def load_data_list(self) -> list[dict[str, Any]]:
        paths = sorted(Path(self.data_root).glob("*.tif"))
        return [{"img_path": str(path), "gt_label": int(path.name.partition("_")[0])} for path in paths]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for number in range(6):
        write_raster(tmp_path / "data" / f"{number % 2}_{number}.tif", np.full((4, 4, 3), 10 * number, np.uint8))
    return tmp_path / "data"


def loader(folder: Path, workers: int = 0, on_error: str = "raise", **changes: Any) -> dict[str, Any]:
    steps = [dict(type="dynamicvis.LoadRaster", on_error=on_error), dict(type="PackSmall")]
    values = dict(
        batch_size=2,
        num_workers=workers,
        collate_fn=dict(type="pseudo_collate"),
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(type="SmallFolder", data_root=str(folder), pipeline=steps),
    )
    return {**values, **changes}


def error_of(work: Path, **changes: Any) -> str:
    """The one line that a training ends with."""
    with pytest.raises(SystemExit) as stop, reported_errors():
        trained(work, **changes)
    message = str(stop.value)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(folder, tmp_path, workers):
    path = folder / "0_2.tif"
    path.write_bytes(path.read_bytes()[:100])
    assert "0_2.tif cannot be read as an image" in error_of(tmp_path / "w", train_dataloader=loader(folder, workers))


def test_a_sample_that_cannot_be_used_is_named(folder, tmp_path):
    path = (folder / "0_2.tif").rename(folder / "9_2.tif")
    message = error_of(tmp_path / "w", train_dataloader=loader(folder))
    assert "9_2.tif cannot be loaded (KeyError: 'of a transform'); correct it or leave it out" in message
    path.rename(folder / "2_2.tif")
    wrapped = dict(type="RepeatDataset", times=2, dataset=loader(folder)["dataset"])
    for changes in ({}, {"dataset": wrapped}):
        message = error_of(tmp_path / "w", train_dataloader=loader(folder, **changes))
        assert "2_2.tif has the label 2, and the classes are 0 to 1; correct it" in message


def test_damaged_images_are_skipped_in_workers_and_counted(folder, tmp_path):
    (folder / "0_2.tif").write_bytes(b"II*\0")
    hooks = [dict(type="dynamicvis.SkippedImagesHook")]
    short = dict(by_epoch=True, max_epochs=1)
    trained(tmp_path / "w", train_dataloader=loader(folder, 2, "skip"), custom_hooks=hooks, train_cfg=short)
    assert "1 times in this epoch an image could not be read" in log(tmp_path / "w")
    for path in folder.iterdir():
        path.write_bytes(b"II*\0")
    message = error_of(tmp_path / "w", train_dataloader=loader(folder, 1, "skip"))
    assert "samples one after the other were dropped by the pipeline" in message


def test_a_set_smaller_than_its_batch_is_refused(folder, tmp_path):
    message = error_of(tmp_path / "w", train_dataloader=loader(folder, batch_size=8, drop_last=True))
    assert "the training set has 6 images, and an epoch no batch of 8" in message


def test_classes_of_model_and_data_are_compared():
    model = nn.Module()
    model.decode_head = nn.Module()
    model.decode_head.num_classes = 2
    data = type("Data", (), {"metainfo": {"classes": ("a", "b")}})
    check_classes(model, data)
    data.metainfo = {"classes": ("a", "b", "c")}
    with pytest.raises(ConfigError, match=r"has 3 classes and the model's decode_head 2; set model\.decode_head"):
        check_classes(model, data)


@MODELS.register_module(force=True)
class NormalizedModel(SmallModel):
    """Normalises over the batch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "loss") -> Any:
        return {"loss": self.norm(self.line(torch.stack(list(inputs)))).square().mean() + self.ballast.mean()}


def test_a_last_batch_of_one_says_how_to_go_on(folder, tmp_path):
    settings = dict(model=dict(type="NormalizedModel"), train_dataloader=loader(folder, batch_size=5))
    assert "set train_dataloader.drop_last=True" in error_of(tmp_path / "w", **settings)
    settings["train_dataloader"] = loader(folder, batch_size=5, drop_last=True)
    assert trained(tmp_path / "w", **settings).iter == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write the work folder (No space left on device)"),
        (PermissionError(errno.EACCES, "Permission denied", "/w/x"), "cannot write /w/x (Permission denied)"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/d/train"), "/d/train does not exist"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(error, message):
    with pytest.raises(SystemExit, match=r"^error: ") as stop, reported_errors():
        raise error
    assert message in str(stop.value)


def test_other_errors_keep_their_traceback():
    for error in (OSError(errno.EINTR, "Interrupted"), ValueError("a mistake in the code"), KeyError("x")):
        with pytest.raises(type(error)), reported_errors():
            raise error


def test_a_data_set_names_a_sample_without_a_path():
    class Numbers(BaseDataset):
        def load_data_list(self) -> list[dict[str, Any]]:
            return [{"value": 1}]

    data = Numbers(pipeline=[lambda results: results["absent"]])
    check_samples(data)
    with pytest.raises(DataError, match=r"sample 0 of Numbers cannot be loaded \(KeyError: 'absent'\)"):
        data[0]
