"""The backbone inside torchgeo's own classification task, through timm."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset
from torchgeo.trainers import ClassificationTask

import dynamicvis.timm  # noqa: F401 - registers the models


class Colors(Dataset):
    """Images of one of two colours."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": torch.full((4, 64, 64), float(index % 2)), "label": torch.tensor(index % 2)}


@pytest.mark.filterwarnings("ignore")
def test_torchgeo_trains_the_backbone(tmp_path):
    task = ClassificationTask(model="dynamicvis_nano", weights=None, in_channels=4, num_classes=2, lr=1e-3)
    before = {name: value.clone() for name, value in task.model.named_parameters()}
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, DataLoader(Colors(), batch_size=2), DataLoader(Colors(), batch_size=2))
    assert torch.isfinite(trainer.callback_metrics["train_loss"])
    changed = [name for name, value in task.model.named_parameters() if not torch.equal(value, before[name])]
    assert any(name.startswith("backbone.stages.0.") for name in changed)
    assert "head.weight" in changed
