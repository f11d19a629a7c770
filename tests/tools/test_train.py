from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file
from tools_helpers import ROOT, Run, repeats, tool

from dynamicvis.mm.inference import load_tile_model
from dynamicvis.model_card import ModelFileError, read_card, read_weights, save_model


def checkpoint(path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=False)


def scalars(work) -> list[dict]:
    runs = sorted(path for path in work.iterdir() if path.is_dir())
    return [json.loads(line) for line in (runs[-1] / "vis_data" / "scalars.json").read_text().splitlines()]


def test_resume_continues_at_the_next_iteration(trained: Run, tmp_path, monkeypatch):
    monkeypatch.chdir(trained.folder)
    work = tmp_path / "work"
    work.mkdir()
    first = checkpoint(trained.checkpoint)
    assert (first["meta"]["epoch"], first["meta"]["iter"]) == (1, 2)
    torch.save(first, work / "epoch_1.pth")
    (work / "last_checkpoint").write_text(str(work / "epoch_1.pth"))
    tool("train")([str(trained.config), "--work-dir", str(work), "--resume", *repeats("train_cfg.max_epochs=2")])
    second = checkpoint(work / "epoch_2.pth")
    assert (second["meta"]["epoch"], second["meta"]["iter"]) == (2, 4)
    trained_epochs = [line["epoch"] for line in scalars(work) if "loss" in line]
    assert trained_epochs == [2, 2]
    # The optimizer's own count of steps went on as well.
    assert {float(state["step"]) for state in second["optimizer"]["state"].values()} == {4.0}


def test_router_noise_follows_the_epochs(trained: Run, tmp_path, monkeypatch):
    from dynamicvis.backbone import NoiseDecay

    seen = []
    scale = NoiseDecay.scale.fget
    monkeypatch.setattr(NoiseDecay, "scale", property(lambda self: seen.append(self.progress) or scale(self)))
    monkeypatch.chdir(trained.folder)
    options = repeats("train_cfg.max_epochs=2", "train_cfg.val_interval=3")
    tool("train")([str(trained.config), "--work-dir", str(tmp_path), *options])
    # Once when the model is built, then two iterations per epoch; the validation at the end looks at it as well.
    assert seen[:5] == [0.0] + [0.0] * 2 + [0.5] * 2


def test_checkpoint_holds_averaged_weights(trained: Run):
    content = checkpoint(trained.checkpoint)
    name = "backbone.stages.0.merge.projection.weight"
    averaged, current = content["state_dict"][name], content["ema_state_dict"][f"module.{name}"]
    assert 0 < (averaged - current).abs().max() < 0.1


def test_evaluation_writes_its_figures(trained: Run, tmp_path):
    data = trained.folder / "data/neon-trees"
    options = [
        f"test_dataloader.dataset.data_root={data}/",
        f"test_evaluator.0.ann_file={data}/annotations/test.json",
        "test_evaluator.1.score_thr=0.001",
    ]
    arguments = [str(trained.config), str(trained.checkpoint), "--work-dir", str(tmp_path), "--cfg-options", *options]
    result = subprocess.run(
        [sys.executable, "tools/test.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"coco/bbox_mAP_50", "boxes/precision", "boxes/recall", "boxes/best_score_thr"} <= set(metrics)
    assert all(isinstance(value, float) for value in metrics.values())


@pytest.fixture(scope="module")
def exported(trained: Run, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    metrics = path.with_name("metrics.json")
    metrics.write_text('{"coco/bbox_mAP_50": 0.25}')
    arguments = [str(trained.config), str(trained.checkpoint), "-o", str(path), "--name", "tiny"]
    assert tool("export_model")([*arguments, "--metrics", str(metrics), "--score-threshold", "0.0"]) == 0
    return path


def test_card_says_what_the_config_says(trained: Run, exported):
    card = read_card(exported)
    assert (card.name, card.task, card.bands) == ("tiny", "detection", ("red", "green", "blue"))
    assert card.mean == (123.675, 116.28, 103.53)
    palette = Config.fromfile(trained.config).metainfo.palette
    assert (card.classes, card.colors) == (("tree",), ("#" + bytes(palette[0]).hex(),))
    assert (card.score_threshold, card.metrics) == (0.0, {"coco/bbox_mAP_50": 0.25})
    assert "data_preprocessor" not in card.config
    floats = [value for value in load_file(exported).values() if value.is_floating_point()]
    # What a short training leaves next to zero is beyond float16.
    assert all(value.dtype == torch.float16 or value.abs().max() < 2**-14 for value in floats)
    assert sum(value.numel() for value in floats if value.dtype == torch.float16) > 300_000


def test_exported_model_detects_what_the_trained_one_does(trained: Run, exported, monkeypatch):
    from mmengine.runner import Runner

    monkeypatch.chdir(trained.folder)
    config = Config.fromfile(trained.config)
    config.work_dir = str(trained.work / "compare")
    runner = Runner.from_cfg(config)
    runner.model.load_state_dict(read_weights(exported))
    batch = next(iter(runner.test_dataloader))
    expected = runner.model.eval().test_step(batch)[0].pred_instances

    image = batch["inputs"][0].numpy()[::-1].astype(np.float32)
    first, second = load_tile_model(exported)(np.stack([image, image[:, ::-1]])).objects
    boxes, scores, labels = first.boxes, first.scores, first.labels
    assert len(boxes) == len(expected.scores) > 10
    np.testing.assert_allclose(scores, expected.scores.numpy(), atol=1e-5)
    np.testing.assert_allclose(boxes, expected.bboxes.numpy(), atol=1e-2)
    assert boxes.dtype == np.float64
    assert set(labels.tolist()) == {0}
    assert not np.array_equal(second.scores, scores)


def test_scores_below_the_card_are_not_reported(trained: Run, exported, tmp_path):
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 96)).astype(np.float32)
    everything = load_tile_model(exported)(image).objects[0].scores
    threshold = float(np.median(everything))
    path = tmp_path / "strict.safetensors"
    arguments = [str(trained.config), str(trained.checkpoint), "-o", str(path), "--name", "strict"]
    assert tool("export_model")([*arguments, "--score-threshold", str(threshold)]) == 0
    np.testing.assert_array_equal(load_tile_model(path)(image).objects[0].scores, everything[everything >= threshold])


def test_wrong_number_of_bands_is_refused(exported):
    with pytest.raises(ValueError, match="3 bands"):
        load_tile_model(exported)(np.zeros((1, 4, 64, 64), dtype=np.float32))


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_of_another_architecture_are_refused(exported, tmp_path, change):
    weights = read_weights(exported)
    name = "bbox_head.conv_cls.weight"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        weights["roi_head.weight"] = torch.zeros(1)
    else:
        weights[name] = torch.zeros(3, 64, 3, 3)
    path = tmp_path / "other.safetensors"
    save_model(path, weights, read_card(exported))
    with pytest.raises(ModelFileError, match=r"other\.safetensors holds weights of another architecture.*such as"):
        load_tile_model(path)


def test_loading_says_nothing(exported):
    code = (
        "import sys, numpy\n"
        "from dynamicvis.mm.inference import load_tile_model\n"
        "load_tile_model(sys.argv[1])(numpy.zeros((1, 3, 64, 64), 'float32'))\n"
        "import mmpretrain\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(exported)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_export_names_what_is_wrong(trained: Run, tmp_path, capsys):
    config = ROOT / "configs/tree_detection/resnet18_fcos_neon-trees.py"
    out = tmp_path / "x.safetensors"
    assert tool("export_model")([str(config), str(trained.checkpoint), "-o", str(out), "--name", "x"]) == 1
    assert "model_card" in capsys.readouterr().err
    arguments = [str(trained.config), str(tmp_path / "absent.pth"), "-o", str(out), "--name", "x"]
    assert tool("export_model")(arguments) == 1
    assert "absent.pth does not exist" in capsys.readouterr().err
    (tmp_path / "cut.pth").write_bytes(trained.checkpoint.read_bytes()[:5000])
    arguments[1] = str(tmp_path / "cut.pth")
    assert tool("export_model")(arguments) == 1
    assert "cut.pth is truncated" in capsys.readouterr().err
    assert not out.exists()
