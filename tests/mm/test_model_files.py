"""Model files from strangers: cards, weights, and what is built of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS
from mmengine.registry import MODELS
from model_fuzz import make_whole
from safetensors.torch import save_file

from dynamicvis.mm.inference import load_tile_model
from dynamicvis.mm.inference.guards import bounded_by, registered_only
from dynamicvis.model_card import ModelFileError, read_card, read_weights, save_model

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Weights]:
    return make_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def write(whole: tuple[dict[str, Any], Weights], tmp_path: Path) -> Callable[..., Path]:
    """Writes the file of a small detector with other fields, other text or other weights."""

    def written(text: str | None = None, weights: Weights | None = None, **fields: Any) -> Path:
        card, own = whole
        path = tmp_path / "m.safetensors"
        text = json.dumps(card | fields) if text is None else text
        save_file(own | (weights or {}), path, {"dynamicvis_card": text})
        return path

    return written


def test_the_whole_file_finds_objects(write: Callable[..., Path]) -> None:
    assert load_tile_model(write())(np.zeros((1, 3, 64, 64), np.float32)).objects


@pytest.mark.parametrize("part", ["backbone.", "neck.", "bbox_head."])
def test_results_that_are_no_numbers_are_not_reported_as_no_objects(
    part: str, whole: tuple[dict[str, Any], Weights], write: Callable[..., Path]
) -> None:
    large = {
        name: value.float() * 1e25
        for name, value in whole[1].items()
        if name.startswith(part) and value.is_floating_point() and value.ndim > 1
    }
    model = load_tile_model(write(weights=large))
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 64)).astype(np.float32)
    with pytest.raises(ModelFileError, match=r"computes NaN or infinity on a window with values from"):
        model(images)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gsd": 0}, "gsd must be the size of a pixel in metres"),
        ({"gsd": "0.1"}, "gsd must be a finite number"),
        ({"gsd": True}, "gsd must be a finite number"),
        ({"tile": 64.0}, "tile must be a whole number"),
        ({"tile": True}, "tile must be a whole number"),
        ({"tile": 0}, "tile, and tile times scale, must be from 1"),
        ({"tile": 10**9}, "tile, and tile times scale, must be from 1"),
        ({"scale": 1e9}, "tile, and tile times scale, must be from 1"),
        ({"overlap": None}, "overlap must be a whole number"),
        ({"overlap": -1}, "overlap must be at least 0"),
        ({"score_threshold": "0.2"}, "score_threshold must be a finite number"),
        ({"score_threshold": 1.5}, "score_threshold must be from 0 to 1"),
        ({"mean": ["a", "b", "c"]}, "mean must be a list of finite numbers"),
        ({"mean": 3}, "mean must be a list of finite numbers"),
        ({"mean": [10**400] * 3}, "mean must be a list of finite numbers"),
        ({"std": [1e-40] * 3}, "std must be positive"),
        ({"std": [1e-28] * 3}, "std is so small"),
        ({"value_range": [255, 0]}, "value_range must be two numbers, the smaller one first"),
        ({"value_range": [0, 1, 2]}, "value_range must be two numbers"),
        ({"colors": ["red"]}, "colors must be a list of colours like #ff8000"),
        ({"colors": ["#ff80001"]}, "colors must be a list of colours"),
        ({"colors": "#ff8000"}, "colors must be a list of colours"),
        ({"classes": "t", "colors": ["#ff8000"]}, "classes must be a list of names"),
        ({"classes": [["tree"]]}, "classes must be a list of names"),
        ({"classes": ["tr\nee"]}, "classes must be a list of names"),
        ({"classes": ["x" * 201]}, "classes must be a list of names"),
        ({"bands": ["a", "b", ""]}, "bands must be a list of names"),
        ({"name": "a\x1b]0;b\x07"}, r"model card 'a\\x1b\]0;b\\x07': name must be text"),
        ({"name": None}, "name must be text"),
        ({"description": "a\u202eb"}, "description must be a line of text"),
        ({"license": 5}, "license must be a line of text"),
        ({"task": ["detection"]}, "task must be one of"),
        ({"interpolation": {}}, "interpolation must be a line of text"),
        ({"clip": 1}, "clip must be true or false"),
        ({"background": False}, "background must be a whole number"),
        ({"metrics": {"AP": "high"}}, "metrics must hold finite numbers by name"),
        ({"metrics": [1]}, "metrics must hold finite numbers by name"),
        ({"config": None}, "config must be a dictionary"),
        ({"config": {"type": "os.system", "command": "true"}}, "config.type is 'os.system', which a model file"),
        ({"hook": 1}, "unknown field 'hook'"),
        ({"a\x1bb": 1}, r"unknown field 'a\\x1bb'"),
    ],
)  # fmt: skip
def test_fields_of_a_card_are_checked(fields: dict[str, Any], message: str, write: Callable[..., Path]) -> None:
    with pytest.raises(ModelFileError, match=rf"m\.safetensors holds a model card that .*{message}.*export it again"):
        read_card(write(**fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"gsd": 0.1', '"gsd": NaN'), "NaN is no number"),
        (lambda text: text.replace('"gsd": 0.1', '"gsd": -Infinity'), "-Infinity is no number"),
        (lambda text: text.replace('"gsd": 0.1', '"gsd": 1e999'), "gsd must be a finite number"),
        (lambda text: text.replace('"gsd": 0.1', '"gsd": 0.1, "gsd": 0.2'), "a field is there twice"),
        (lambda text: text.replace('"type": "FCOS"', '"type": "FCOS", "type": "os.system"'), "a field is there twice"),
        (lambda text: text.replace('"gsd": 0.1', '"gsd": 1' + "0" * 5000), "digits"),
        (lambda text: "[" * 100_000, "it is nested too deeply"),
        (lambda text: "[1]", "it is no dictionary"),
        (lambda text: "{}", "it lacks name"),
        (lambda text: text + " " * (8 << 20), "it is longer than"),
    ],
)
def test_the_json_of_a_card_is_strict(
    change: Callable[[str], str], message: str, whole: tuple[dict[str, Any], Weights], write: Callable[..., Path]
) -> None:
    with pytest.raises(ModelFileError, match=rf"m\.safetensors holds a model card .*{message}"):
        read_card(write(text=change(json.dumps(whole[0]))))


def test_a_header_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes((1 << 32).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelFileError, match=r"m\.safetensors is truncated or no safetensors file \(a header of"):
        read_card(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("neck.fpn_convs.0.gn.bias", lambda value: value * math.nan, "neck.fpn_convs.0.gn.bias holds NaN or infinity"),
        ("backbone.pos_embed", lambda value: value.float().index_fill(2, torch.tensor([1]), math.inf), "holds NaN or"),
        ("backbone.pos_embed", lambda value: value.double() + 1e300, "holds NaN or infinity"),
        ("backbone.pos_embed", lambda value: value.to(torch.int8), "backbone.pos_embed as I8, .*needs torch.float32"),
        ("backbone.pos_embed", lambda value: value > 0, "backbone.pos_embed as BOOL"),
        ("backbone.pos_embed", lambda value: value[:, :1], "1 of another shape, such as backbone.pos_embed"),
        ("more", lambda value: torch.ones(1), "1 unexpected, 0 of another shape, such as more"),
    ],
)  # fmt: skip
def test_weights_are_checked(
    name: str,
    change: Callable[..., Any],
    message: str,
    whole: tuple[dict[str, Any], Weights],
    write: Callable[..., Path],
) -> None:
    path = write(weights={name: change(whole[1].get(name)).contiguous()})
    with pytest.raises(ModelFileError, match=rf"m\.safetensors holds .*{message}"):
        load_tile_model(path)


def test_negative_variances_are_refused(whole: tuple[dict[str, Any], Weights], tmp_path: Path) -> None:
    save_file({"bn.running_var": torch.tensor([1.0, -1e-3])}, tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match=r"bn\.running_var is a variance and negative"):
        read_weights(tmp_path / "m.safetensors")


def test_nothing_that_cannot_be_read_is_written(write: Callable[..., Path], tmp_path: Path) -> None:
    card = read_card(write())
    with pytest.raises(ModelFileError, match="'trees' is not written: w holds NaN or infinity"):
        save_model(tmp_path / "new.safetensors", {"w": torch.tensor([math.nan])}, card)
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ["a", "b"], "colors": ["#000000", "#ffffff"]}, "describes a model of 1 classes and names 2"),
        ({"bands": ["a"], "mean": [1], "std": [1]}, r"describes a model of 3 bands and names 1 \(a\)"),
        ({"task": "segmentation"}, "cannot build .*FCOS is not in"),
        ({"task": "instance_segmentation"}, "fails on windows of shape .1, 3, 64, 64.*masks"),
    ],
)
def test_a_card_of_another_model_is_refused(fields: dict[str, Any], message: str, write: Callable[..., Path]) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_tile_model(write(**fields))(np.zeros((1, 3, 64, 64), np.float32))


@pytest.fixture
def decoy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules called like classes; they make a file when they are imported."""
    folder = tmp_path / "decoys"
    folder.mkdir()
    for name in ("ResNet", "FCOS"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(folder)
    yield folder
    assert not (folder / "ran").exists()


def changed(config: dict[str, Any], **parts: dict[str, Any]) -> dict[str, Any]:
    """A config with other settings in its parts."""
    return config | {name: config[name] | settings for name, settings in parts.items()}


def test_a_known_name_in_a_wrong_place_is_not_imported(
    decoy: Path, whole: tuple[dict[str, Any], Weights], write: Callable[..., Path]
) -> None:
    config = changed(whole[0]["config"], bbox_head={"bbox_coder": {"type": "ResNet"}})
    with pytest.raises(ModelFileError, match=r"cannot build .*ResNet is not in the mmdet::task util registry"):
        load_tile_model(write(config=config))
    nms = changed(whole[0]["config"], test_cfg={"nms": {"type": "ResNet", "iou_threshold": 0.5}, "score_thr": 0.0})
    with pytest.raises(ModelFileError, match=r"fails on windows of shape .*'ResNet' is not defined"):
        load_tile_model(write(config=nms))(np.zeros((1, 3, 64, 64), np.float32))


def test_names_are_looked_up_among_modules_outside_of_model_files_only() -> None:
    with registered_only():
        assert MODELS.get("torch.nn.Linear") is None
    assert MODELS.get("torch.nn.Linear") is torch.nn.Linear


def test_a_class_that_another_package_put_in_the_place_of_a_known_one(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MMDET_MODELS.module_dict, "FocalLoss", type("FocalLoss", (), {"__module__": "evil.losses"}))
    with pytest.raises(ModelFileError, match=r"names the type FocalLoss, which package 'evil' registered here"):
        load_tile_model(write())
    monkeypatch.undo()
    monkeypatch.setitem(TASK_UTILS.module_dict, "FocalLoss", max)
    with pytest.raises(ModelFileError, match=r"package 'builtins' registered here"):
        load_tile_model(write())


@pytest.mark.parametrize(
    "parts",
    [
        {"backbone": {"dims": [65536] * 4, "arch": None, "depths": [1] * 4, "keep_ratios": [None] * 4}},
        {"backbone": {"img_size": 32 * 900}},
        {"bbox_head": {"stacked_convs": 60000}},
        {"neck": {"out_channels": 65536}},
        {"neck": {"num_outs": 60000, "add_extra_convs": True}},
    ],
    ids=str,
)
def test_a_model_far_larger_than_its_weights_is_not_built(
    parts: dict[str, Any], whole: tuple[dict[str, Any], Weights], write: Callable[..., Path]
) -> None:
    with pytest.raises(ModelFileError, match=r"cannot build \(it .*(far larger than the weights|far more parts than)"):
        load_tile_model(write(config=changed(whole[0]["config"], **parts)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(10**5, 10**5),
        lambda: torch.empty((10**10,)),
        lambda: torch.arange(10**10),
        lambda: torch.linspace(0, 1, 10**10),
        lambda: torch.eye(10**5),
        lambda: torch.ones(10).repeat(10**9),
        lambda: torch.ones(10**5, 1) + torch.ones(10**5),
        lambda: torch.randint(0, 5, (10**10,)),
        lambda: torch.ones(1).new_full((10**10,), 1.0),
        lambda: [torch.zeros(10**6) for _ in range(1000)],
    ],
)
def test_memory_is_counted_before_it_is_taken(make: Callable[[], Any]) -> None:
    with bounded_by([]), pytest.raises(ValueError, match="far larger than the weights"):
        make()


def test_bounds_are_of_one_block() -> None:
    with bounded_by([(10**5, 10**4)]):
        torch.zeros(10**5, 100)
    assert len(torch.nn.ModuleList(torch.nn.Identity() for _ in range(3000))) == 3000
