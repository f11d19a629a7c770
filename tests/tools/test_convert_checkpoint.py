from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from tools_helpers import tool

from dynamicvis import create_backbone, load_checkpoint
from dynamicvis.checkpoint import read_tensors
from dynamicvis.pretraining import FeaturePyramid, RegionClassifier, RegionExtractor, RegionHead

sys.path.append(str(Path(__file__).parents[1] / "backbone"))
from golden import NAMES, Golden

convert = tool("convert_checkpoint")


@pytest.fixture
def reference() -> dict[str, torch.Tensor]:
    """State dict of a pretraining in the reference's key layout."""
    torch.manual_seed(0)
    dims = Golden(NAMES[0]).backbone().dims
    modules = {"pre_neck": FeaturePyramid(dims), "neck": RegionExtractor(), "head": RegionHead(63)}
    state_dict = {
        f"{part}.{key}": value for part, module in modules.items() for key, value in module.state_dict().items()
    }
    return Golden(NAMES[0]).group("state_dict") | state_dict


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pretraining_loads_whole_into_our_model(reference, tmp_path, capsys, suffix):
    torch.save({"state_dict": reference, "meta": {"epoch": 200}}, tmp_path / "in.pth")
    out = tmp_path / f"out{suffix}"
    assert convert([str(tmp_path / "in.pth"), "-o", str(out)]) == 0
    report = capsys.readouterr().out
    backbone = Golden(NAMES[0]).backbone()
    count = len(backbone.state_dict())
    assert f"backbone: {count} matched, 0 missing, 0 unexpected" in report
    for part in ("pre_neck", "neck", "head"):
        assert f"{part}: " in report
    model = RegionClassifier(backbone, backbone.dims, RegionHead(63)).eval()
    model.load_state_dict(read_tensors(out))
    golden = Golden(NAMES[0])
    for stage, features in enumerate(model.backbone(golden.tensors["input"])):
        expected = golden.tensors[f"output/{stage}"]
        assert (features - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(model.head.category_embedding.weight, reference["head.category_embedding.weight"])


def test_architecture_is_told_from_the_shapes(tmp_path, capsys):
    backbone = create_backbone("nano", in_channels=4, img_size=64, keep_ratios=(None, 0.5, 0.5, 1.0))
    renames = [
        (r"^stages\.(\d)\.merge\.", r"layers.\1.0."),
        (r"^stages\.(\d)\.norm\.", r"layers.\1.2."),
        (r"^stages\.(\d)\.blocks\.(\d)\.", r"layers.\1.1.\2."),
        (r"\.router\.", ".spatial_gate."),
        (r"(\.1\.\d)\.norm\.", r"\1.spatial_mamba_mixer.pre_norm."),
        (r"(\.1\.\d)\.mixer\.", r"\1.spatial_mamba_mixer.mamba_layer."),
    ]
    state_dict = {}
    for key, value in backbone.state_dict().items():
        for pattern, replacement in renames:
            key = re.sub(pattern, replacement, key)
        state_dict[key] = value
    torch.save(state_dict, tmp_path / "in.pth")
    assert convert([str(tmp_path / "in.pth"), "-o", str(tmp_path / "out.pth")]) == 0
    report = capsys.readouterr().out
    assert "variant=nano" in report
    assert "in_channels=4, img_size=64" in report
    assert "keep_ratios=(None, 0.25, 0.5, 1.0)" in report
    load_checkpoint(backbone, tmp_path / "out.pth")


def test_classifier_keeps_its_head_and_moves_its_norm(reference, tmp_path, capsys):
    kept = {key: value for key, value in reference.items() if key.startswith("backbone.")}
    kept |= {f"backbone.post_meanpool_norm.{name}": torch.ones(2) for name in ("weight", "bias")}
    kept |= {"head.fc.weight": torch.ones(5, 2), "head.fc.bias": torch.ones(5)}
    torch.save({"state_dict": kept}, tmp_path / "in.pth")
    assert convert([str(tmp_path / "in.pth"), "-o", str(tmp_path / "out.pth")]) == 0
    assert "4 other tensors kept as they are" in capsys.readouterr().out
    others = {name for name in read_tensors(tmp_path / "out.pth") if not name.startswith("backbone.")}
    assert others == {
        "neck.post_meanpool_norm.weight", "neck.post_meanpool_norm.bias", "head.fc.weight", "head.fc.bias"
    }  # fmt: skip


def test_an_output_that_cannot_be_written_is_named(reference, tmp_path, capsys):
    torch.save({"state_dict": reference}, tmp_path / "in.pth")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "file").touch()
    for out in ("folder.pth", "file/out.pth"):
        assert convert([str(tmp_path / "in.pth"), "-o", str(tmp_path / out)]) == 1
        assert out.split("/")[0] in capsys.readouterr().err


def test_what_matches_little_is_an_error_and_writes_nothing(reference, tmp_path, capsys):
    def error_of(state_dict: dict[str, torch.Tensor], out: str = "out.pth") -> str:
        torch.save({"state_dict": state_dict}, tmp_path / "in.pth")
        assert convert([str(tmp_path / "in.pth"), "-o", str(tmp_path / out)]) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
        return capsys.readouterr().err

    assert "matches nothing of the reference" in error_of({"conv1.weight": torch.zeros(3)})
    ours = Golden(NAMES[0]).backbone().state_dict()
    assert "in this package's names already" in error_of({f"backbone.{key}": value for key, value in ours.items()})
    gated = reference | {"backbone.layers.0.1.0.spatial_mamba_mixer.gate_layer.0.weight": torch.zeros(1, 4)}
    assert "gated" in error_of(gated)
    few = {key: value for key, value in reference.items() if ".mamba_layer." not in key}
    assert "matches only" in error_of(few)
    no_stage = {key: value for key, value in reference.items() if ".layers.3." not in key}
    assert "holds part of a backbone: stages [0, 1, 2]" in error_of(no_stage)
    odd = reference | {"neck.pre_module.conv.weight": torch.zeros(256, 256, 3, 3)}
    assert "does not fit the pretraining's neck" in error_of(odd)
    assert "must end in .pth or .safetensors" in error_of(reference, "out.bin")
    assert "is the checkpoint itself" in error_of(reference, "in.pth")
    assert convert([str(tmp_path / "absent.pth"), "-o", str(tmp_path / "out.pth")]) == 1
    assert "absent.pth does not exist" in capsys.readouterr().err
