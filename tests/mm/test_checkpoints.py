from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.runner import Runner as StockRunner
from small_runs import EPOCHS, SmallModel, log, names, small_config, trained, with_test

from dynamicvis.checkpoint import CheckpointError, read_checkpoint
from dynamicvis.mm.checkpoints import CheckpointHook, newest_first
from dynamicvis.mm.errors import ConfigError, DivergedError, reported_errors
from dynamicvis.mm.runner import build_runner

pytestmark = pytest.mark.usefixtures("quick_runs")


class Attack:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_numbers_of_checkpoints_and_the_best_are_kept(tmp_path):
    config = with_test(small_config(tmp_path, **EPOCHS))
    build_runner(config).train()
    (best,) = (name for name in names(tmp_path) if name.startswith("best_"))
    assert names(tmp_path) == [best, "epoch_7.pth", "epoch_8.pth", "last_checkpoint"]
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "epoch_8.pth")
    assert read_checkpoint(tmp_path / "epoch_8.pth")["message_hub"]["runtime_info"]["best_ckpt"] == str(tmp_path / best)


def test_the_order_of_a_save(tmp_path, monkeypatch):
    """What is there whenever a file is removed: the new checkpoint, and a last_checkpoint that names it."""
    seen = []
    unlink = Path.unlink

    def watched(path, *arguments, **options):
        if path.suffix == ".pth" and not path.name.startswith("."):
            last = Path((tmp_path / "last_checkpoint").read_text())
            seen.append((path.name, last.name, last.is_file(), len(list(tmp_path.glob("best_*")))))
        unlink(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", watched)
    build_runner(with_test(small_config(tmp_path, **EPOCHS))).train()
    assert ("epoch_1.pth", "epoch_3.pth", True, 1) in seen
    best = [entry for entry in seen if entry[0].startswith("best_")]
    assert best
    assert all(whole and count == 2 for _, _, whole, count in best)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "zeros":
        path.write_bytes(content[: len(content) // 2] + bytes(1000) + content[len(content) // 2 + 1000 :])
    elif how == "other content":
        torch.save([torch.ones(3)], path)
    elif how == "weights alone":
        torch.save({"line.weight": torch.ones(2, 2)}, path)
    else:
        state = read_checkpoint(path)
        state["state_dict"]["line.weight"][0, 0] = float(how)
        torch.save(state, path)


def test_last_checkpoint_names_what_is_resumed_from_before_the_one_before_goes(tmp_path):
    hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1))
    trained(tmp_path, default_hooks=hooks)
    (tmp_path / "epoch_2.pth").write_bytes((tmp_path / "epoch_3.pth").read_bytes())
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    os.utime(tmp_path / "epoch_2.pth", (1e9, 1e9))
    state = read_checkpoint(tmp_path / "epoch_3.pth")
    assert state["message_hub"]["runtime_info"]["keep_ckpt_ids"] == [2, 3]
    trained(tmp_path, default_hooks=hooks, resume=True)
    assert names(tmp_path) == ["epoch_3.pth", "last_checkpoint"]
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "epoch_3.pth")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("cut off", "truncated"),
        ("empty", "truncated"),
        ("zeros", "checksum"),
        ("other content", "holds no weights but a list"),
        ("weights alone", "has no meta"),
        ("nan", "NaN or infinity in line.weight"),
        ("inf", "NaN or infinity in line.weight"),
    ],
)
def test_resuming_takes_the_newest_whole_one(tmp_path, how, reason):
    trained(tmp_path)
    damage(tmp_path / "epoch_3.pth", how)
    runner = build_runner(small_config(tmp_path, resume=True, train_cfg=dict(by_epoch=True, max_epochs=4)))
    runner.train()
    assert f"resuming from {tmp_path / 'epoch_2.pth'}, the newest whole checkpoint" in log(tmp_path)
    assert "not resuming from epoch_3.pth" in log(tmp_path)
    assert reason in log(tmp_path)
    assert runner.iter == 12
    assert read_checkpoint(tmp_path / "epoch_4.pth")["meta"]["epoch"] == 4
    # The damaged one was written anew on the way.
    assert read_checkpoint(tmp_path / "epoch_3.pth")["meta"]["epoch"] == 3


def test_without_a_whole_one_a_run_does_not_resume(tmp_path, capsys):
    trained(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=2))
    before = names(tmp_path)
    for name in ("epoch_1.pth", "epoch_2.pth"):
        damage(tmp_path / name, "cut off")
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints in .* is whole .*epoch_2\.pth is truncated"):
        trained(tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"epoch_1\.pth is truncated.*; --resume alone takes"):
        trained(tmp_path, resume=True, load_from=str(tmp_path / "epoch_1.pth"))
    assert names(tmp_path) == before
    # Where there is nothing yet, resuming is beginning.
    assert trained(tmp_path / "new", resume=True).iter == 9


def test_which_checkpoint_is_the_newest(tmp_path):
    def made(name: str, age: float) -> Path:
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
        return tmp_path / name

    def order() -> list[str]:
        return [path.name for path in newest_first(tmp_path, tmp_path, "epoch_{}.pth")]

    made("epoch_2.pth", 30), made("epoch_10.pth", 20), made("epoch_9.pth", 10)
    made("epoch_x.pth", 0), made("best_acc_epoch_99.pth", 0), made("iter_99.pth", 0)
    assert order() == ["epoch_10.pth", "epoch_9.pth", "epoch_2.pth"]
    (tmp_path / "last_checkpoint").write_text("/moved/from/epoch_9.pth")
    # Number 10 is of an earlier run, being older than what last_checkpoint names.
    assert order() == ["epoch_9.pth", "epoch_2.pth", "epoch_10.pth"]
    made("epoch_10.pth", 5)
    assert order() == ["epoch_10.pth", "epoch_9.pth", "epoch_2.pth"]
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\x00")
    assert order() == ["epoch_10.pth", "epoch_9.pth", "epoch_2.pth"]
    (tmp_path / "last_checkpoint").write_text(str(made("iter_7.pth", 30)))
    assert order()[0] == "iter_7.pth"


def test_code_in_a_checkpoint_does_not_run(tmp_path, monkeypatch):
    trained(tmp_path / "good")
    state = read_checkpoint(tmp_path / "good" / "epoch_3.pth")
    ran = tmp_path / "ran"
    attack = tmp_path / "attack.pth"
    torch.save(state | {"x": Attack(ran)}, attack)
    refused = pytest.raises(CheckpointError, match=r"attack\.pth holds objects other than tensors .*weights_only=False")
    with refused:
        trained(tmp_path / "w", resume=True, load_from=str(attack))
    with refused:
        trained(tmp_path / "w", load_from=str(attack))
    with refused:
        build_runner(with_test(small_config(tmp_path / "w", load_from=str(attack)))).test()
    for prefix in ({}, {"prefix": "line."}):
        with refused:
            trained(
                tmp_path / "w",
                model=dict(type="SmallModel", init_cfg=dict(type="Pretrained", checkpoint=str(attack), **prefix)),
            )
    # Another's runner reads by the same rules.
    with refused:
        StockRunner.from_cfg(small_config(tmp_path / "w", load_from=str(attack))).train()
    # An address is read from the copy that is kept of it.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    attack.rename(tmp_path / "hub" / "checkpoints" / "attack.pth")
    with refused:
        trained(tmp_path / "w", load_from="https://example.org/models/attack.pth")
    # MMEngine executes this entry as a config.
    state["meta"]["config"] = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n"
    torch.save(state, tmp_path / "config.pth")
    trained(
        tmp_path / "w", resume=True, load_from=str(tmp_path / "config.pth"), train_cfg=dict(by_epoch=True, max_epochs=4)
    )
    assert not ran.exists()


def test_a_checkpoint_does_not_say_what_is_removed(tmp_path):
    trained(tmp_path / "first", train_cfg=dict(by_epoch=True, max_epochs=1))
    state = read_checkpoint(tmp_path / "first" / "epoch_1.pth")
    treasure = tmp_path / "best_treasure"
    treasure.mkdir()
    (treasure / "file").write_text("")
    info = state["message_hub"]["runtime_info"]
    info |= {"best_ckpt": str(treasure), "best_score": -1.0, "keep_ckpt_ids": ["../../first/epoch_1", 1, 2, 3, 4]}
    state["message_hub"]["resumed_keys"] |= dict.fromkeys(("best_ckpt", "best_score", "keep_ckpt_ids"), True)
    work = tmp_path / "work"
    work.mkdir()
    for name in ("epoch_1.pth", "epoch_2.pth"):
        (work / name).write_text("of somebody")
    torch.save(state, tmp_path / "elsewhere.pth")
    config = with_test(small_config(work, **EPOCHS, resume=True, load_from=str(tmp_path / "elsewhere.pth")))
    build_runner(config).train()
    assert (treasure / "file").exists()
    assert (work / "epoch_1.pth").read_text() == "of somebody"
    assert (tmp_path / "first" / "epoch_1.pth").exists()


def test_only_drafts_of_checkpoints_are_cleaned(tmp_path):
    ours = ".0123456789ab4cdea123456789abcdef.pth"
    others = [
        ".hidden.pth",
        ".0123456789ab4cdea123456789abcdef.txt",
        "epoch_1.pth.part",
        ".0123456789ab0cdea123456789abcdef",
    ]
    for name in (ours, *others):
        (tmp_path / name).write_text("")
    trained(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=1))
    assert names(tmp_path) == sorted([*others, "epoch_1.pth", "last_checkpoint"])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(5, "Input/output error")])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tmp_path, monkeypatch, error):
    config = small_config(tmp_path, **(EPOCHS | dict(train_cfg=dict(by_epoch=True, max_epochs=3))))
    calls = []
    put = LocalBackend.put

    def full(self, content, path):
        calls.append(path)
        if len(calls) < 3:
            return put(self, content, path)
        Path(path).write_bytes(content[: len(content) // 2])
        raise error

    monkeypatch.setattr(LocalBackend, "put", full)
    with pytest.raises(SystemExit) as stop, reported_errors():
        build_runner(config).train()
    message = str(stop.value)
    assert message.startswith(f"error: {tmp_path / 'epoch_3.pth'} cannot be written ({error.strerror})")
    assert f"the last whole checkpoint is {tmp_path / 'epoch_2.pth'}" in message
    assert "--resume" in message
    assert names(tmp_path) == ["epoch_1.pth", "epoch_2.pth", "last_checkpoint"]
    assert read_checkpoint((tmp_path / "last_checkpoint").read_text())["meta"]["epoch"] == 2


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    way = dict(by_epoch=True, max_epochs=1)
    trained(tmp_path, train_cfg=way)
    before = (tmp_path / "epoch_1.pth").read_bytes()
    bad = small_config(tmp_path, resume=True)
    bad.train_dataloader.dataset.damaged = 4
    with pytest.raises(DivergedError) as stop:
        build_runner(bad).train()
    assert "loss is nan at iteration" in str(stop.value)
    assert "in epoch 2, with the images" in str(stop.value)
    assert "image_4.png" in str(stop.value)
    assert f"the last whole checkpoint is {tmp_path / 'epoch_1.pth'}" in str(stop.value)
    assert (tmp_path / "epoch_1.pth").read_bytes() == before
    assert names(tmp_path) == ["epoch_1.pth", "last_checkpoint"]


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    trained(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=1))
    runner = build_runner(small_config(tmp_path, resume=True))
    poison = Hook()
    poison.after_train_epoch = lambda runner: runner.model.line.weight.data.fill_(float("inf"))
    runner.register_hook(poison)
    with pytest.raises(DivergedError, match=r"line\.weight.*not saved; the last whole checkpoint is .*epoch_1"):
        runner.train()
    assert names(tmp_path) == ["epoch_1.pth", "last_checkpoint"]


def test_a_test_needs_the_weights_of_its_model(tmp_path):
    trained(tmp_path / "w")
    good = tmp_path / "w" / "epoch_3.pth"
    assert set(build_runner(with_test(small_config(tmp_path / "t", load_from=str(good)))).test()) == {"acc"}
    part = tmp_path / "part.pth"
    torch.save({"line.weight": torch.ones(2, 2), "line.bias": torch.ones(2)}, part)

    def test(checkpoint: Path, **model: int) -> None:
        changes = dict(model=dict(type="SmallModel", **model), load_from=str(checkpoint))
        build_runner(with_test(small_config(tmp_path / "t", **changes))).test()

    with pytest.raises(CheckpointError, match=r"part\.pth is of another model: SmallModel takes 2 of its 3 .* ballast"):
        test(part)
    with pytest.raises(CheckpointError, match=r"SmallModel takes 1 of its 3 parameters from it, and not line"):
        test(good, width=5)
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist"):
        test(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match=r"is a folder"):
        test(tmp_path)
    for how, reason in (("nan", "NaN or infinity in line.weight"), ("cut off", "truncated")):
        damage(good, how)
        with pytest.raises(CheckpointError, match=reason):
            test(good)


def test_training_begins_from_what_fits(tmp_path):
    part, other = tmp_path / "part.pth", tmp_path / "other.pth"
    torch.save({"state_dict": {"line.weight": torch.full((2, 2), 5.0)}}, part)
    torch.save({"state_dict": {"head.weight": torch.ones(2)}}, other)
    slow = dict(optim_wrapper=dict(optimizer=dict(type="SGD", lr=1e-9)))
    runner = trained(tmp_path / "w", load_from=str(part), **slow)
    assert torch.allclose(runner.model.line.weight, torch.tensor(5.0))
    with pytest.raises(CheckpointError, match=r"other\.pth is of another model: SmallModel takes 0 of its 3"):
        trained(tmp_path / "w", load_from=str(other))

    def pretrained(path: Path, **more: str) -> SmallModel:
        model = SmallModel(init_cfg=dict(type="Pretrained", checkpoint=str(path), **more))
        model.init_weights()
        return model

    assert torch.equal(pretrained(part).line.weight, torch.full((2, 2), 5.0))
    with pytest.raises(CheckpointError, match=r"other\.pth is of another model"):
        pretrained(other)
    with pytest.raises(CheckpointError, match=r"other\.pth, below neck\. cannot be loaded into SmallModel"):
        pretrained(other, prefix="neck.")


def test_resuming_with_another_config_is_refused(tmp_path):
    trained(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=1))
    with pytest.raises(CheckpointError, match=r"is of another model: .* give a checkpoint of this config"):
        trained(tmp_path, resume=True, model=dict(type="SmallModel", width=3))
    with pytest.raises(CheckpointError, match=r"epoch_1\.pth cannot go on .*resume with the config"):
        trained(
            tmp_path,
            resume=True,
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1), paramwise_cfg=dict(bias_lr_mult=2)),
        )


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("param_schedulers", 0, "begin"), [1]),
        (("param_schedulers", 0, "last_step"), None),
        (("optimizer", "param_groups", 0, "eps"), "x"),
        (("optimizer", "param_groups", 0, "betas"), [0.9]),
        (("optimizer", "state", 0, "exp_avg"), 0),
        (("optimizer", "state", 1, "exp_avg_sq"), torch.zeros(7)),
        (("message_hub", "resumed_keys", "epoch"), -1),
        (("message_hub", "log_scalars"), None),
        (("meta", "iter"), "1"),
    ],
)
def test_a_state_of_other_kinds_is_refused(tmp_path, place, value):
    trained(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=1))
    state = inner = read_checkpoint(tmp_path / "epoch_1.pth")
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    torch.save(state, tmp_path / "epoch_1.pth")
    with pytest.raises(CheckpointError, match=r"epoch_1\.pth"):
        trained(tmp_path, resume=True)


def test_the_hook_of_any_config_is_the_safe_one(tmp_path):
    for hooks in (
        None,
        {},
        dict(checkpoint=dict(type="CheckpointHook")),
        dict(checkpoint=dict(type="mmengine.CheckpointHook")),
    ):
        kinds = [type(hook) for hook in build_runner(small_config(tmp_path, default_hooks=hooks)).hooks]
        assert kinds.count(CheckpointHook) == 1
        assert sum(kind.__name__ in ("CheckpointHook", "FiniteLossHook") for kind in kinds) == 2
    none = build_runner(small_config(tmp_path, default_hooks=dict(checkpoint=None)))
    assert not any(isinstance(hook, CheckpointHook) for hook in none.hooks)


def test_the_best_by_an_unknown_metric_names_those_there_are(tmp_path):
    hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1, save_best="mIoU", rule="greater"))
    with pytest.raises(ConfigError, match=r"save_best .* is 'mIoU', and validation gives acc"):
        build_runner(with_test(small_config(tmp_path, default_hooks=hooks))).train()
    assert "epoch_1.pth" in names(tmp_path)


def test_published_weights(tmp_path):
    hooks = dict(checkpoint=dict(type="CheckpointHook", published_keys=["state_dict"], max_keep_ckpts=1))
    trained(tmp_path, default_hooks=hooks)
    (published,) = tmp_path.glob("epoch_3-*.pth")
    assert set(read_checkpoint(published)) == {"state_dict"}
