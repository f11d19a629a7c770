"""Trainings of a second, for tests of what surrounds the model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

from dynamicvis.mm.runner import Runner, build_runner

_numbers = itertools.count()


@MODELS.register_module(force=True)
class SmallModel(BaseModel):
    """A line with noise, whose weights take some time to write."""

    def __init__(self, width: int = 2, init_cfg: Any = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.line = nn.Linear(2, width)
        self.ballast = nn.Parameter(torch.zeros(100_000))

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "loss") -> Any:
        values = self.line(torch.stack(list(inputs)))
        if mode == "predict":
            return [{"value": float(value.detach().sum())} for value in values]
        noise = torch.randn_like(values)
        return {"loss": ((values - 1) ** 2 * (1 + 0.1 * noise)).mean() + self.ballast.mean()}


class Sample:
    """As much of a data sample as names its image."""

    def __init__(self, path: str) -> None:
        self.img_path = path


@DATASETS.register_module(force=True)
class SmallSet(torch.utils.data.Dataset):
    """Six samples; of image ``damaged`` the values are NaN."""

    def __init__(self, damaged: int = -1) -> None:
        self.damaged = damaged
        self.metainfo: dict[str, Any] = {}

    def full_init(self) -> None: ...

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        value = torch.full((2,), float("nan") if index == self.damaged else 0.1 * index)
        return {"inputs": value, "data_samples": Sample(f"image_{index}.png")}


@METRICS.register_module(force=True)
class SmallMetric:
    """A figure that follows from the weights, and of which some validations give the highest so far."""

    dataset_meta: Any = None

    def __init__(self) -> None:
        self.total = 0.0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.total += sum(sample["value"] for sample in data_samples)

    def evaluate(self, size: int) -> dict[str, float]:
        total, self.total = self.total, 0.0
        return {"acc": float(int(abs(total) * 1e6) % 11)}


def small_config(work: Path, **changes: Any) -> Config:
    """Config of a run by epochs of three iterations, with stock names where a user would write them."""
    loader = dict(batch_size=2, num_workers=0, collate_fn=dict(type="pseudo_collate"))
    values = dict(
        model=dict(type="SmallModel"),
        work_dir=str(work),
        train_dataloader=dict(
            **loader, dataset=dict(type="SmallSet"), sampler=dict(type="DefaultSampler", shuffle=True)
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=[dict(type="CosineAnnealingLR", by_epoch=True)],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        custom_hooks=[dict(type="dynamicvis.IterationSeedHook")],
        randomness=dict(seed=0),
        default_scope="mmengine",
        log_level="INFO",
        launcher="none",
        experiment_name=f"small_{next(_numbers)}",  # MMEngine keeps a run's log by its name
    )
    return Config({**values, **changes})


def with_test(config: Config) -> Config:
    """The same with a test and a validation."""
    loader = dict(
        batch_size=2,
        num_workers=0,
        collate_fn=dict(type="pseudo_collate"),
        dataset=dict(type="SmallSet"),
        sampler=dict(type="DefaultSampler", shuffle=False),
    )
    for split in ("val", "test"):
        config[f"{split}_dataloader"] = loader
        config[f"{split}_cfg"] = {}
        config[f"{split}_evaluator"] = dict(type="SmallMetric")
    return config


def trained(work: Path, **changes: Any) -> Runner:
    """Train, and give the runner."""
    runner = build_runner(small_config(work, **changes))
    runner.train()
    return runner


def names(folder: Path) -> list[str]:
    """Files in a folder, hidden ones too, without the logs."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".py")


def log(work: Path) -> str:
    """What the last run logged."""
    return max(work.glob("*/*.log"), key=lambda path: path.stat().st_mtime_ns).read_text()


# Settings of a run by epochs that validates, keeps the best and averages weights.
EPOCHS = dict(
    default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2, save_best="acc")),
    train_cfg=dict(by_epoch=True, max_epochs=8, val_interval=1),
    custom_hooks=[dict(type="dynamicvis.IterationSeedHook"), dict(type="EMAHook", priority=49)],
)
