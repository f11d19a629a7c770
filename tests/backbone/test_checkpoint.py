"""Loading weights: layouts, containers, adaptation, and files that cannot be used."""

from __future__ import annotations

import argparse
import os
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden
from safetensors.torch import save_file

from dynamicvis import create_backbone, load_checkpoint
from dynamicvis.checkpoint import CheckpointError, read_checkpoint, read_tensors
from dynamicvis.conversion import convert_reference

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
    torch.save(REFERENCE | {"backbone.pos_embed": torch.zeros(5, 64, 16)}, tmp_path / "five.pth")
    with pytest.raises(CheckpointError, match=r"pos_embed has shape \(5, 64, 16\)"):
        load_checkpoint(backbone(), tmp_path / "five.pth")


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


def _write_flipped_bit(path: Path) -> None:
    torch.save(REFERENCE, path)
    content = bytearray(path.read_bytes())
    content[content.index(REFERENCE["backbone.pos_embed"].numpy().tobytes())] ^= 1
    path.write_bytes(content)


def _write_compressed(path: Path) -> None:
    """A few kilobytes of it may hold gigabytes of zeros."""
    torch.save(REFERENCE | {"zeros": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("absent.pth", lambda path: None, "does not exist"),
        ("garbage.pth", _write_garbage, "objects other than tensors.*or is no checkpoint"),
        ("code.pth", lambda path: torch.save({"state_dict": _Code()}, path), "could run code.*weights_only=False"),
        ("short.pth", _write_truncated_pickle, "is truncated or no torch file"),
        ("short.safetensors", _write_truncated_safetensors, "is truncated or no safetensors file"),
        ("flipped.pth", _write_flipped_bit, "is damaged: the checksum of .* does not fit"),
        ("squeezed.pth", _write_compressed, "is damaged: .*data.pkl is compressed, which torch never does"),
        ("n" * 300 + ".pth", lambda path: None, "cannot be read"),
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

    torch.save(content | {"hyper_parameters": argparse.Namespace(data=Path("x"))}, tmp_path / "paths.pth")
    assert not load_checkpoint(create_backbone("test_nano"), tmp_path / "paths.pth").missing

    torch.save(content | {"more": Fraction(1, 2)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth holds objects other than tensors"):
        load_checkpoint(backbone, tmp_path / "odd.pth")


def _states(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Files that hold one backbone's weights, by what saved them."""
    other = {key: value + 1 for key, value in state.items()}
    count = torch.tensor(3)
    return {
        "compiled": {f"_orig_mod.{key}": value for key, value in state.items()},
        "DDP of compiled": {f"module._orig_mod.{key}": value for key, value in state.items()},
        "compiled of DDP": {f"_orig_mod.module.{key}": value for key, value in state.items()},
        "Lightning": {"epoch": 1, "state_dict": {f"model._orig_mod.{key}": value for key, value in state.items()}},
        "Fabric": {"model": {f"_forward_module.module.{key}": value for key, value in state.items()}},
        "compiled backbone of a model": {
            **{f"model.backbone._orig_mod.{key}": value for key, value in state.items()},
            "model.head.weight": count.float(),
        },
        "FSDP of each block": {
            "_fsdp_wrapped_module."
            + re.sub(r"(blocks\.\d\.)", r"\1_fsdp_wrapped_module._checkpoint_wrapped_module.", key): value
            for key, value in state.items()
        },
        "average alone": {"n_averaged": count} | {f"module.{key}": value for key, value in state.items()},
        "average beside": {f"model.{key}": value for key, value in other.items()}
        | {f"ema_model.module.{key}": value for key, value in state.items()}
        | {"ema_model.n_averaged": count},
        "average before": {f"model_ema._orig_mod.module.{key}": value for key, value in state.items()}
        | {f"model.{key}": value for key, value in other.items()},
        "timm": {"arch": "x", "state_dict": other, "state_dict_ema": state, "args": argparse.Namespace(lr=0.1)},
        "average of another kind": {"model": other, "ema": {"module": state, "updates": 3}},
        "no average yet": {"state_dict": state, "state_dict_ema": {}},
        "containers in one another": {"model": {"state_dict": {f"module.{key}": v for key, v in state.items()}}},
    }


@pytest.mark.parametrize("saver", _states({}))
def test_weights_from_any_wrapper(saver: str, tmp_path: Path) -> None:
    source, target = backbone(), backbone()
    torch.save(_states(source.state_dict())[saver], tmp_path / "w.pth")
    load_checkpoint(target, tmp_path / "w.pth")
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_two_models_in_one_file_are_not_mixed(tmp_path: Path) -> None:
    state = backbone().state_dict()
    doubled = {f"module.{key}": value for key, value in state.items()}
    torch.save(state | doubled, tmp_path / "same.pth")
    load_checkpoint(backbone(), tmp_path / "same.pth")
    doubled["module.pos_embed"] = doubled["module.pos_embed"] + 1
    torch.save(state | doubled, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"two\.pth holds pos_embed twice"):
        load_checkpoint(backbone(), tmp_path / "two.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.index_fill(2, torch.tensor([3]), float("nan")), "pos_embed holds NaN or infinity"),
        (lambda value: value.index_fill(2, torch.tensor([3]), float("-inf")), "pos_embed holds NaN or infinity"),
        (lambda value: value.to(torch.int8), "pos_embed has type int8, needed is float32"),
        (lambda value: value > 0, "pos_embed has type bool, needed is float32"),
        (lambda value: value.to(torch.complex64), "pos_embed has type complex64"),
        (lambda value: value[:, :0], "pos_embed holds no values"),
        (lambda value: value.to_sparse(), "pos_embed is no plain tensor"),
        (lambda value: value.to("meta"), "pos_embed is no plain tensor"),
        (lambda value: value.double() + 1e300, "pos_embed holds numbers beyond float32"),
        (lambda value: torch.nested.nested_tensor([value[0]]), "pos_embed is no plain tensor"),
        (lambda value: torch.zeros(1).expand(10**9), "pos_embed claims more values than the file holds"),
    ],
)
def test_weights_that_are_none(change: Callable, message: str, tmp_path: Path) -> None:
    model = backbone()
    state = model.state_dict()
    torch.save(state | {"pos_embed": change(state["pos_embed"])}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=rf"w\.pth: {message}"):
        load_checkpoint(model, tmp_path / "w.pth")


def test_whole_state_of_a_run_is_read_without_code(tmp_path: Path) -> None:
    from mmengine.logging import HistoryBuffer

    history = HistoryBuffer([1.5, 2.5, 0.5], [1, 1, 2])
    palette = np.array([[1, 2, 3], [4, 5, 6]])
    shared = (np.float32(0.5), [palette])
    content = {
        "meta": {"iter": 3, "classes": ("a", "b"), "palette": palette, "columns": np.asfortranarray(palette, ">f4")},
        "message_hub": {"log_scalars": OrderedDict(loss=history), "runtime_info": {"best": np.float64(0.25)}},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "param_schedulers": [{"milestones": Counter({2: 1, 7: 2})}],
        "names": np.array(["x", "yz"]), "flag": np.bool_(True), "first": shared, "second": shared,
    }  # fmt: skip
    torch.save(content, tmp_path / "run.pth")
    read = read_checkpoint(tmp_path / "run.pth")
    buffer = read["message_hub"]["log_scalars"]["loss"]
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.max_length == history.max_length
    assert buffer.mean(2) == history.mean(2)
    buffer.update(7.0)
    assert buffer.current() == 7.0
    for name in ("palette", "columns"):
        np.testing.assert_array_equal(read["meta"][name], content["meta"][name])
        assert read["meta"][name].dtype == content["meta"][name].dtype
    assert read["meta"]["classes"] == ("a", "b")
    assert read["message_hub"]["runtime_info"] == {"best": 0.25}
    assert type(read["message_hub"]["runtime_info"]["best"]) is np.float64
    assert read["optimizer"] == content["optimizer"]
    assert read["param_schedulers"] == content["param_schedulers"]
    assert type(read["param_schedulers"][0]["milestones"]) is Counter
    assert read["names"].tolist() == ["x", "yz"]
    assert read["flag"]
    assert read["first"] is read["second"]


class _Runs:
    """Its pickle calls a function."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "evil",
    [
        lambda mark: _Runs(os.system, f"touch {mark}"),
        lambda mark: _Runs(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: _Runs(open, str(mark), "w"),
        lambda mark: np.array([_Runs(os.system, f"touch {mark}")], dtype=object),
        lambda mark: Fraction(1, 2),
    ],
)
@pytest.mark.parametrize("read", [read_checkpoint, read_tensors])
def test_code_in_a_checkpoint_is_not_run(evil: Callable, read: Callable, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"state_dict": backbone().state_dict(), "optimizer": evil(mark)}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r'evil\.pth holds objects other than tensors.*python -c "import torch'):
        read(tmp_path / "evil.pth")
    assert not mark.exists()


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    torch.save({"meta": np.array([{}], dtype=object)}, tmp_path / "o.pth")
    with pytest.raises(CheckpointError, match=r"o\.pth is damaged \(arrays of objects\)"):
        read_checkpoint(tmp_path / "o.pth")


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    from mmengine.logging import HistoryBuffer

    path = tmp_path / "d.pth"
    content = {"state_dict": {"a": torch.ones(3)}, "log": HistoryBuffer([1.0], [1]), "number": np.float64(1)}
    torch.save(content, path, _use_new_zipfile_serialization=False)  # without the checksums of an archive
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    outcomes = Counter()
    for index in range(300):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 1 + index % 3):
            damaged[place] = generator.integers(256)
        path.write_bytes(bytes(damaged[: int(generator.integers(len(whole)))] if index % 5 == 0 else damaged))
        for read in (read_checkpoint, read_tensors):
            try:
                read(path)
                outcomes["read"] += 1
            except CheckpointError as error:
                outcomes["several lines" if "\n" in str(error) else "refused"] += 1
    assert not outcomes["several lines"]
    assert outcomes["refused"] > 100
    assert outcomes["read"] > 20


def test_attributes_that_a_file_gives_its_tensors_hide_no_method(tmp_path: Path) -> None:
    state = dict(backbone().state_dict())
    state["pos_embed"] = torch.ones_like(state["pos_embed"])
    state["pos_embed"].to = state["pos_embed"].numel = 5  # type: ignore[method-assign, assignment]
    torch.save({"state_dict": state}, tmp_path / "named.pth")
    model = backbone()
    load_checkpoint(model, tmp_path / "named.pth")
    assert torch.equal(model.pos_embed, torch.ones_like(model.pos_embed))
    assert not vars(read_checkpoint(tmp_path / "named.pth")["state_dict"]["pos_embed"])


def test_a_container_without_tensors_hides_none(tmp_path: Path) -> None:
    """Settings of an average, say, below the name that others give to averaged weights."""
    state = backbone().state_dict()
    torch.save({"ema": {"decay": 0.9}, "model": {"name": "nano"}, "state_dict": state}, tmp_path / "settings.pth")
    assert load_checkpoint(backbone(), tmp_path / "settings.pth").missing == ()


def test_a_backbone_without_memory_takes_no_weights(tmp_path: Path) -> None:
    """Torch would load them into nothing, and the report would say that all is well."""
    torch.save(backbone().state_dict(), tmp_path / "w.pth")
    with torch.device("meta"):
        model = backbone()
    with pytest.raises(ValueError, match=r"device meta.*to_empty"):
        load_checkpoint(model, tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.0.1.9999.D", torch.ones(1)),
        ("layers.0.1." + "9" * 5000 + ".D", torch.ones(1)),
        ("layers.0.0.projection.weight", torch.ones(5)),
        ("layers.1.0.projection.weight", torch.ones(0, 16, 3, 3)),
        ("pos_embed", torch.ones(1, 0, 16)),
        ("pos_embed", torch.ones(())),
    ],
    ids=["many blocks", "more blocks than digits", "no kernel", "empty kernel", "empty embedding", "one number"],
)
def test_conversion_of_odd_shapes_and_names(name: str, value: torch.Tensor, tmp_path: Path) -> None:
    torch.save(REFERENCE | {f"backbone.{name}": value}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth (holds part of a backbone|matches only)"):
        convert_reference(tmp_path / "odd.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
