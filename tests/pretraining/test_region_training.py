"""Runs of tools/pretrain.py: resumed, and in two processes, to the losses of one that was left alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from region_data import make_shards
from safetensors.torch import save_file
from tools_helpers import ROOT, tool
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from dynamicvis.backbone import create_backbone
from dynamicvis.checkpoint import load_checkpoint
from dynamicvis.registry import MODEL_WRAPPERS, MODELS

EPOCHS = 2
NAMES = ("loss_classes", "loss_contrast", "loss_balance")
CLASSES = ["red", "green", "blue", "yellow"]
CONFIG = f"""
_base_ = "{ROOT}/configs/pretraining/dynamicvis-nano_mosaics.py"

model = dict(
    backbone=dict(arch="test_nano", img_size=64, noise=dict(start=0.5, end=0.1)),
    in_channels=[16, 32, 48, 64],
    num_classes=4,
    channels=16,
)
train_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=(64, 64), ratio_range=(0.6, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(64, 64), crop_type="absolute", allow_negative_crop=False),
    dict(type="Pad", size=(64, 64)),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(dataset=dict(pipeline=train_pipeline)),
)
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_cfg = dict(max_epochs={EPOCHS})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=5))
log_level = "ERROR"
"""
# Without router noise, which every process draws for itself, and with the balance loss.
QUIET = """
_base_ = "tiny.py"

model = dict(backbone=dict(noise=0.0))
custom_hooks = [
    dict(type="dynamicvis.IterationSeedHook"),
    dict(type="dynamicvis.RouterBalanceHook", weight=0.1),
]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, and 8 images for training and 5 for validation, which two processes cannot share equally."""
    folder = tmp_path_factory.mktemp("regions")
    for seed, (split, count) in enumerate((("train", 8), ("val", 5), ("test", 2))):
        make_shards(folder / "mosaics" / split, count, CLASSES, seed=seed)
    (folder / "tiny.py").write_text(CONFIG)
    (folder / "quiet.py").write_text(QUIET)
    return folder


def pretrain(folder: Path, work: Path, *options: str, resume: Path | None = None, config: str = "tiny.py") -> None:
    arguments = [str(folder / config), "--work-dir", str(work), *(["--resume", str(resume)] if resume else [])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICVIS_DATA", str(folder))
        tool("pretrain")([*arguments, *(["--cfg-options", *options] if options else [])])


def pretrain_in_two(folder: Path, work: Path, *options: str, resume: Path | None = None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [*("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port))]
    arguments = [str(ROOT / "tools/pretrain.py"), str(folder / "quiet.py"), "--work-dir", str(work)]
    arguments += ["--launcher", "pytorch", *(["--resume", str(resume)] if resume else [])]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    result = subprocess.run(
        [sys.executable, *launch, *arguments, "--cfg-options", "train_dataloader.batch_size=2", *options],
        env=os.environ | {"DYNAMICVIS_DATA": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]


def scalars(work: Path) -> list[dict[str, Any]]:
    runs = sorted(path for path in work.iterdir() if (path / "vis_data").is_dir())
    return [json.loads(line) for run in runs for line in (run / "vis_data" / "scalars.json").read_text().splitlines()]


def losses(work: Path) -> list[tuple[float, ...]]:
    lines = [line for line in scalars(work) if "loss" in line]
    assert [line["iter"] for line in lines] == list(range(lines[0]["iter"], 2 * EPOCHS + 1))
    return [tuple(line[name] for name in NAMES if name in line) for line in lines]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location="cpu", weights_only=False)["state_dict"]


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run in one process, with augmentation and router noise."""
    work = tmp_path_factory.mktemp("alone")
    pretrain(folder, work)
    return work


def test_a_resumed_run_has_exactly_the_losses_of_an_uninterrupted_one(folder, alone, tmp_path):
    torch.manual_seed(123)  # whatever was drawn before
    pretrain(folder, tmp_path, resume=alone / "epoch_1.pth")
    assert losses(tmp_path) == losses(alone)[2:]
    first, second = weights(alone / "epoch_2.pth"), weights(tmp_path / "epoch_2.pth")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loading_workers_change_nothing(folder, alone, tmp_path):
    pretrain(folder, tmp_path, "train_dataloader.num_workers=2", "train_dataloader.persistent_workers=True")
    assert losses(tmp_path) == losses(alone)


def test_noise_and_augmentation_matter(folder, alone, tmp_path):
    """The equalities above would also hold if nothing were random."""
    pretrain(folder, tmp_path / "noise", "model.backbone.noise=0.0", "train_cfg.max_epochs=1")
    pretrain(folder, tmp_path / "seed", "randomness.seed=1", "train_cfg.max_epochs=1")
    for work in (tmp_path / "noise", tmp_path / "seed"):
        first = next(line for line in scalars(work) if "loss" in line)
        assert first["loss_classes"] != losses(alone)[0][0]


@pytest.fixture(scope="module")
def quiet(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process."""
    work = tmp_path_factory.mktemp("quiet")
    pretrain(folder, work, config="quiet.py")
    return work


SHARDED = ("runner_type=dynamicvis.ShardedRunner", "model_wrapper_cfg.type=dynamicvis.FullySharded")


@pytest.mark.parametrize("options", [(), SHARDED], ids=["DDP", "FSDP"])
def test_two_processes_have_the_losses_of_one(folder, quiet, tmp_path, options):
    pretrain_in_two(folder, tmp_path, *options)
    for mine, theirs in zip(losses(tmp_path), losses(quiet), strict=True):
        assert len(mine) == len(NAMES)
        assert mine == pytest.approx(theirs, rel=1e-4)
    mine, theirs = ([line for line in scalars(work) if "regions/f1" in line] for work in (tmp_path, quiet))
    # Five images of 2, 3, 4, 1 and 2 regions, each counted once by both.
    assert [line["regions/count"] for line in mine] == [12, 12]
    assert [line["regions/f1"] for line in mine] == pytest.approx([line["regions/f1"] for line in theirs])
    # Checkpoints are whole, and those of one process.
    first, second = weights(tmp_path / "epoch_2.pth"), weights(quiet / "epoch_2.pth")
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)
    report = load_checkpoint(create_backbone("test_nano"), tmp_path / "epoch_2.pth")
    assert not report.missing


def test_a_sharded_run_is_resumed_from_a_whole_checkpoint(folder, quiet, tmp_path):
    pretrain_in_two(folder, tmp_path, *SHARDED, resume=quiet / "epoch_1.pth")
    for mine, theirs in zip(losses(tmp_path), losses(quiet)[2:], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    state = torch.load(tmp_path / "epoch_2.pth", map_location="cpu", weights_only=False)
    whole = torch.load(quiet / "epoch_2.pth", map_location="cpu", weights_only=False)
    for index, entry in whole["optimizer"]["state"].items():
        torch.testing.assert_close(state["optimizer"]["state"][index], entry, rtol=1e-2, atol=1e-5)


def test_a_model_for_other_classes_is_refused(folder, tmp_path):
    with pytest.raises(AssertionError, match=r"`num_classes` \(5\) in RegionHead .* `classes` 4\)"):
        pretrain(folder, tmp_path, "model.num_classes=5")


def test_a_missing_count_of_samples_stops_the_run(folder, tmp_path):
    shutil.copytree(folder / "mosaics", tmp_path / "mosaics")
    (tmp_path / "mosaics/val/meta.json").unlink()
    shutil.copy(folder / "tiny.py", tmp_path)
    with pytest.raises(SystemExit, match=r"error: .*val/meta\.json does not exist; it must hold the number of images"):
        pretrain(tmp_path, tmp_path / "work")


def test_embeddings_of_a_run_start_from_a_file(folder, tmp_path):
    vectors = torch.eye(16)[:4]
    save_file(dict(zip(CLASSES, vectors, strict=True)), tmp_path / "text.safetensors")
    classes = f"model.classes=[{','.join(CLASSES)}]"
    still = ("optim_wrapper.optimizer.lr=0.0", "train_cfg.max_epochs=1")
    pretrain(folder, tmp_path / "work", f"model.embeddings={tmp_path / 'text.safetensors'}", classes, *still)
    embeddings = weights(tmp_path / "work/epoch_1.pth")["head.category_embedding.weight"]
    torch.testing.assert_close(embeddings, 4 * vectors)
    with pytest.raises(SystemExit, match="lack 1 of 4 classes, such as 'violet'"):
        pretrain(
            folder,
            tmp_path / "other",
            f"model.embeddings={tmp_path / 'text.safetensors'}",
            classes.replace("yellow", "violet"),
        )


def test_parameters_are_sharded(folder, tmp_path):
    config = Config.fromfile(folder / "tiny.py")
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config.model)
    count = len(model.backbone.stages[0].blocks[0].state_dict())
    distributed.init_process_group("gloo", store=distributed.FileStore(str(tmp_path / "store")), rank=0, world_size=1)
    try:
        wrapped = MODEL_WRAPPERS.build(dict(type="dynamicvis.FullySharded", module=model))
        kinds = {name: isinstance(value, DTensor) for name, value in wrapped.named_parameters()}
        assert [name for name, sharded in kinds.items() if not sharded] == ["module.head.logit_scale"]
        # A block is a unit of its own: its parameters are gathered when it runs.
        assert len(model.backbone.stages[0].blocks[0].state_dict()) == count
        assert isinstance(model.backbone.stages[0].blocks[0], FSDPModule)
    finally:
        distributed.destroy_process_group()
