"""Outputs and gradients of the backbone against the reference's arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import NAMES, Golden
from safetensors.torch import save_file

from dynamicvis import create_backbone, load_checkpoint
from dynamicvis.checkpoint import rename_reference_key

# Of each tensor's largest magnitude. The files are stored in float32, which bounds the comparison in float64.
BOUNDS = {torch.float32: 1e-4, torch.float64: 1e-6}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_golden_file(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    golden = Golden(name)
    backbone = golden.backbone()
    save_file(golden.group("state_dict"), tmp_path / "reference.safetensors")
    report = load_checkpoint(backbone, tmp_path / "reference.safetensors")
    assert not report.missing
    assert not report.unexpected
    backbone = backbone.to(dtype)
    images = golden.tensors["input"].to(dtype).requires_grad_()
    maps = backbone(images)
    torch.autograd.backward(maps, [golden.tensors[f"grad_output/{s}"].to(dtype) for s in range(4)])

    actual = {f"output/{s}": maps[s].detach() for s in range(4)} | {"grad_input": images.grad}
    gradients = {rename_reference_key(key): value for key, value in golden.group("grad").items()}
    expected = {key: golden.tensors[key] for key in actual} | gradients
    actual |= {key: parameter.grad for key, parameter in backbone.named_parameters()}
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        error, magnitude = (actual[key] - value).abs().max(), value.abs().max()
        assert error <= BOUNDS[dtype] * magnitude, f"{key}: {error / magnitude:.1e}"


@pytest.mark.parametrize(("name", "count"), [("base", 36_745_536), ("large", 91_242_240)])
def test_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name, img_size=512)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == count
