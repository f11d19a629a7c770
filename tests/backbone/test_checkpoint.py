"""Loading weights: layouts, containers, adaptation, and files that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden import Golden
from safetensors.torch import save_file

from dynamicvis import create_backbone, load_checkpoint
from dynamicvis.checkpoint import CheckpointError

REFERENCE = Golden("token_selection_64").group("state_dict")


def backbone(**overrides: object) -> torch.nn.Module:
    return create_backbone("test_nano", **overrides)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "meta": {"epoch": 3}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"model": {key.removeprefix("backbone."): value for key, value in state.items()}},
    ],
    ids=["bare", "state_dict", "module prefix", "no prefix"],
)
def test_containers_and_prefixes(wrap: Callable, tmp_path: Path) -> None:
    torch.save(wrap(REFERENCE), tmp_path / "file.pth")
    model = backbone()
    report = load_checkpoint(model, tmp_path / "file.pth")
    assert len(report.matched) == len(model.state_dict()) == len(REFERENCE)
    assert torch.equal(
        model.stages[2].blocks[1].mixer.A_log, REFERENCE["backbone.layers.2.1.1.spatial_mamba_mixer.mamba_layer.A_log"]
    )


def test_own_layout_round_trip(tmp_path: Path) -> None:
    first, second = backbone(), backbone()
    save_file(first.state_dict(), tmp_path / "own.safetensors")
    load_checkpoint(second, tmp_path / "own.safetensors")
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value)


def test_report_names_what_is_missing_and_unexpected(tmp_path: Path) -> None:
    state = {key: value for key, value in REFERENCE.items() if "layers.3" not in key}
    torch.save(state | {"head.fc.weight": torch.zeros(2)}, tmp_path / "part.pth")
    model = backbone()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"part.pth gives only \d+ of the backbone's 80 .*first missing: stages.3"
    ):
        load_checkpoint(model, tmp_path / "part.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    report = load_checkpoint(model, tmp_path / "part.pth", strict=False)
    assert report.unexpected == ("head.fc.weight",)
    assert {name.split(".")[1] for name in report.missing} == {"3"}
    assert "unexpected head.fc.weight" in str(report)


def test_other_number_of_bands_keeps_the_response(tmp_path: Path) -> None:
    torch.save(REFERENCE, tmp_path / "rgb.pth")
    rgb, five = backbone().eval(), backbone(in_channels=5).eval()
    load_checkpoint(rgb, tmp_path / "rgb.pth")
    report = load_checkpoint(five, tmp_path / "rgb.pth")
    assert report.adapted == {"stages.0.merge.projection.weight": "(16, 3, 7, 7) -> (16, 5, 7, 7)"}
    gray = torch.randn(1, 1, 64, 64)
    for one, other in zip(rgb(gray.expand(-1, 3, -1, -1)), five(gray.expand(-1, 5, -1, -1)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_position_embedding_follows_the_grid(tmp_path: Path) -> None:
    torch.save(REFERENCE, tmp_path / "small.pth")
    large = backbone(img_size=(128, 64)).eval()
    report = load_checkpoint(large, tmp_path / "small.pth")
    assert report.adapted["pos_embed"] == "(1, 256, 16) -> (1, 512, 16)"
    small = backbone().eval()
    load_checkpoint(small, tmp_path / "small.pth")
    batch = torch.randn(1, 3, 128, 64)
    assert torch.equal(small(batch)[0], large(batch)[0])


def test_another_architecture(tmp_path: Path) -> None:
    torch.save(REFERENCE, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth holds another architecture: .* has shape .* needs"):
        load_checkpoint(create_backbone("nano"), tmp_path / "other.pth")


class _Code:
    """An object whose unpickling would run code."""


def _write_garbage(path: Path) -> None:
    path.write_bytes(b"no weights at all")


def _write_truncated_pickle(path: Path) -> None:
    torch.save(REFERENCE, path)
    path.write_bytes(path.read_bytes()[:-5000])


def _write_truncated_safetensors(path: Path) -> None:
    save_file(REFERENCE, path)
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("absent.pth", lambda path: None, "does not exist"),
        ("garbage.pth", _write_garbage, "objects other than tensors.*or is no checkpoint"),
        ("code.pth", lambda path: torch.save({"state_dict": _Code()}, path), "could run code.*weights_only=False"),
        ("short.pth", _write_truncated_pickle, "is truncated or no torch file"),
        ("short.safetensors", _write_truncated_safetensors, "is truncated or no safetensors file"),
        ("empty.pth", lambda path: torch.save({"epoch": 3}, path), "holds no tensors"),
    ],
)
def test_unusable_files(name: str, write: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}.*{message}"):
        load_checkpoint(backbone(), path)


def test_history_of_a_run_is_dropped_and_other_objects_are_refused(tmp_path: Path) -> None:
    from mmengine.logging import HistoryBuffer

    backbone = create_backbone("test_nano")
    content = {"state_dict": backbone.state_dict(), "message_hub": {"loss": HistoryBuffer([1.0], [1])}}
    torch.save(content, tmp_path / "run.pth")
    assert not load_checkpoint(create_backbone("test_nano"), tmp_path / "run.pth").missing

    torch.save(content | {"more": Path("x")}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth holds objects other than tensors"):
        load_checkpoint(backbone, tmp_path / "odd.pth")
