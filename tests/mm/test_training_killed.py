"""A training that is killed at any moment goes on as if it had not been."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from small_runs import EPOCHS, names, small_config, with_test

from dynamicvis.checkpoint import read_checkpoint
from dynamicvis.mm.runner import build_runner

pytestmark = pytest.mark.usefixtures("quick_runs")


class Losses(Hook):
    """Writes the loss of every iteration to a file, exactly."""

    priority = "VERY_HIGH"

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        with self.path.open("a") as file:
            file.write(f"{runner.iter} {float(outputs['loss'].detach()).hex()}\n")


def exact_losses(path: Path) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for line in path.read_text().splitlines():
        iteration, loss = line.split()
        found.setdefault(int(iteration), set()).add(loss)
    return found


ITERATIONS = dict(
    default_hooks=dict(
        checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False, max_keep_ckpts=1, save_best="acc")
    ),
    train_cfg=dict(by_epoch=False, max_iters=16, val_interval=2),
    train_dataloader=dict(
        batch_size=2,
        num_workers=0,
        collate_fn=dict(type="pseudo_collate"),
        dataset=dict(type="SmallSet"),
        sampler=dict(type="InfiniteSampler", shuffle=True),
    ),
    param_scheduler=[dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=10)],
)


def in_a_process(config: Config, losses: Path, kill_after: float | None = None) -> bool:
    """Train in a process of its own, killed some time after its first iteration; whether it came to its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            torch.set_num_threads(1)
            os.close(reading)
            runner = build_runner(config)
            runner.register_hook(Losses(losses))
            begun = Hook()
            begun.before_train_iter = lambda *_, **__: os.write(writing, b".")
            runner.register_hook(begun)
            runner.train()
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    try:
        # Nothing comes from a run that finds itself at its end.
        if os.read(reading, 1) and kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1] == 0
    finally:
        os.close(reading)


@pytest.mark.parametrize("way", [EPOCHS, ITERATIONS], ids=["by epochs", "by iterations"])
def test_a_run_killed_at_any_moment_goes_on_with_the_same_losses(tmp_path, way):
    def config(work: Path, resume: bool) -> Config:
        return with_test(small_config(work, **way, resume=resume, log_level="ERROR"))

    begin = time.monotonic()
    assert in_a_process(config(tmp_path / "whole", False), tmp_path / "expected")
    duration = time.monotonic() - begin
    expected = exact_losses(tmp_path / "expected")
    moments = np.random.default_rng(0).uniform(0, duration / 4, 10)
    work, losses = tmp_path / "killed", tmp_path / "losses"
    last = work / "last_checkpoint"
    for moment in moments:
        over = in_a_process(config(work, True), losses, float(moment))
        if last.exists():
            assert read_checkpoint(last.read_text())["state_dict"]
        if over:
            break
    assert in_a_process(config(work, True), losses)
    assert exact_losses(losses) == expected
    assert len(expected) == (24 if way is EPOCHS else 16)
    # The same checkpoints as without a kill, the best one too, and no drafts.
    assert names(work) == names(tmp_path / "whole")
