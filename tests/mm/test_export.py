from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from safetensors import safe_open

from dynamicvis.mm import export as export_module
from dynamicvis.mm.export import export_model
from dynamicvis.model_card import ModelCard, ModelFileError, read_weights

CONFIGS = Path(__file__).parents[2] / "configs"
RGB = ("red", "green", "blue")
TASKS = {
    "building_extraction": "segmentation",
    "change_detection": "change",
    "image_retrieval": "embedding",
    "instance_segmentation": "instance_segmentation",
    "pretraining": "embedding",
    "region_classification": "embedding",
    "road_segmentation": "segmentation",
    "sar_instance_segmentation": "instance_segmentation",
    "scene_classification": "classification",
    "ship_detection": "detection",
    "tree_detection": "detection",
}


@pytest.fixture(autouse=True)
def cards_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are too few for any model here; that they fit is tested with model files."""
    monkeypatch.setattr(export_module, "check_model", lambda *_: None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    state = {"backbone.x": torch.rand(3), "head.y": torch.ones(2), "auxiliary_head.z": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "last.pth")
    return tmp_path / "last.pth"


def export(config: Path, checkpoint: Path, **options: Any) -> ModelCard:
    return export_model(config, checkpoint, checkpoint.with_name("x.safetensors"), name="x", **options)


def changed(folder: Path, name: str, **changes: Any) -> Path:
    """A config of the package with changes."""
    config = Config.fromfile(CONFIGS / name)
    config.merge_from_dict(changes)
    path = folder / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    return path


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(CONFIGS.glob("*/dynamicvis-*.py")) if path.parent.name != "examples"],
    ids=lambda path: path.stem,
)
def test_every_config_exports(path: Path, checkpoint: Path) -> None:
    card = export(path, checkpoint)
    frozen = "_frozen_" in path.name
    assert card.task == ("embedding" if frozen else TASKS[path.parent.name])
    config = Config.fromfile(path)
    bands = config.model.backbone.get("in_channels", 3)
    assert len(card.bands) == bands
    if card.task == "embedding":
        assert set(card.config) == {"backbone"}
        assert card.classes == ()
    else:
        head = config.model.get("bbox_head") or config.model.get("decode_head") or config.model.get("head")
        count = head.num_classes if head else config.model.roi_head.bbox_head.num_classes
        assert len(card.classes) == len(set(card.colors)) == count
    assert card.background == (0 if card.task in ("segmentation", "change") else None)
    assert (card.score_threshold > 0) == (card.task in ("detection", "instance_segmentation"))
    if card.task in ("segmentation", "change"):
        crop, stride = config.model.test_cfg.crop_size[0], config.model.test_cfg.stride[0]
        assert (card.tile * card.scale, card.overlap * card.scale) == (crop, crop - stride)
    text = json.dumps(card.config)
    assert "auxiliary_head" not in text
    assert "data_preprocessor" not in text


@pytest.mark.parametrize(
    ("config", "bands", "scale"),
    [
        ("ship_detection/dynamicvis-nano_fcos_levir-ship.py", RGB, 2),
        ("ship_detection/dynamicvis-nano_fcos_sen2ships.py", ("blue", "green", "red", "nir"), 2),
        ("tree_detection/dynamicvis-nano_fcos_neon-trees.py", RGB, 1),
        ("scene_classification/dynamicvis-nano_linear_ucmerced-96.py", RGB, 0.375),
        ("sar_instance_segmentation/dynamicvis-nano_mask-rcnn_ssdd.py", ("amplitude",) * 3, 2),
        ("change_detection/dynamicvis-base-dense_siamese-unet_levir-cd.py", RGB, 1),
    ],
)
def test_card_names_what_the_model_sees(config: str, bands: tuple[str, ...], scale: float, checkpoint: Path) -> None:
    card = export(CONFIGS / config, checkpoint)
    assert (card.bands, card.scale) == (bands, scale)
    assert len(card.mean) == len(bands)


def test_bands_of_sentinel_2_are_named_by_the_data_set(checkpoint: Path) -> None:
    card = export(CONFIGS / "change_detection/dynamicvis-nano_siamese-unet_oscd-13bands.py", checkpoint)
    assert card.bands[:3] == ("B01", "B02", "B03")
    assert (card.mean, card.value_range) == ((1500.0,) * 13, (0, 10000))


def test_units_that_the_pipeline_changes_are_those_of_the_file_again(checkpoint: Path) -> None:
    card = export(CONFIGS / "image_retrieval/dynamicvis-nano_embedding_bigearthnet43.py", checkpoint)
    assert (card.value_range, card.clip) == ((0, 2000), True)
    assert card.mean[0] == pytest.approx(123.675 * 2000 / 255)
    assert card.std[0] == pytest.approx(58.395 * 2000 / 255)


def test_only_what_inference_uses_is_written(checkpoint: Path, tmp_path: Path) -> None:
    folder, model = checkpoint.parent, "building_extraction/dynamicvis-nano_upernet_whu-building.py"
    initial = {"type": "Pretrained", "checkpoint": "/secret/place.pth"}
    path = changed(folder, model, **{"model.backbone.init_cfg": initial, "model.neck.init_cfg": initial})
    card = export(path, checkpoint)
    assert set(read_weights(folder / "x.safetensors")) == {"backbone.x", "head.y"}
    assert "secret" not in json.dumps(card.config)
    export(CONFIGS / "pretraining/dynamicvis-nano_mosaics.py", checkpoint)
    assert set(read_weights(folder / "x.safetensors")) == {"backbone.x"}


def test_the_config_may_say_more_than_its_data_set(checkpoint: Path) -> None:
    name = "road_segmentation/dynamicvis-nano_upernet_massachusetts-roads-windows.py"
    changes = {"model_card.tile": 512, "model_card.classes": ["ground", "way"], "model_card.background": None}
    card = export(changed(checkpoint.parent, name, **changes), checkpoint)
    assert (card.tile, card.overlap, card.classes, card.background) == (512, 128, ("ground", "way"), None)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ship_detection/dynamicvis-nano_fcos_sen2ships.py", {"model_card.speed": 1}, "speed"),
        ("ship_detection/dynamicvis-nano_fcos_sen2ships.py", {"default_scope": "mmrotate"}, "give model_card.task"),
        ("ship_detection/dynamicvis-nano_fcos_levir-ship.py", {"model_card.image_size": None}, "model_card.image_size"),
        ("ship_detection/dynamicvis-nano_fcos_sen2ships.py", {"metainfo.bands": None}, "name"),
        ("change_detection/dynamicvis-nano_siamese-unet_oscd.py", {"mean": [1, 2, 3, 4, 5, 6]}, "differ between"),
        ("change_detection/dynamicvis-nano_siamese-unet_oscd.py", {"mean": None}, "has no mean and std"),
        (
            "image_retrieval/dynamicvis-nano_embedding_ucmerced.py",
            {"state": {"head.x": torch.ones(1)}},
            "no weights of a backbone",
        ),
    ],
)
def test_what_a_card_lacks_is_named(name: str, changes: dict[str, Any], message: str, checkpoint: Path) -> None:
    options = dict(changes)
    if "mean" in options:
        options["model.data_preprocessor.mean"] = options.pop("mean")
    if "metainfo.bands" in options:
        options = {"test_dataloader.dataset.metainfo.bands": None}
    if "state" in options:
        torch.save({"state_dict": options.pop("state")}, checkpoint)
    path = changed(checkpoint.parent, name, **options)
    with pytest.raises(ModelFileError, match=message):
        export(path, checkpoint)
    assert not checkpoint.with_name("x.safetensors").exists()


def test_what_half_precision_cannot_hold_keeps_its_values(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {
        "backbone.large": torch.tensor([1.0, 7e4, -1e6]),
        "backbone.edge": torch.tensor([65504.0, 1e-9, 0.0]),
        "backbone.tiny": torch.tensor([1e-6, -3e-7]),
        "backbone.bfloat": torch.tensor([1e38, 1.0], dtype=torch.bfloat16),
        "head.bn.running_var": torch.tensor([1.0, 1e-9]),
        "head.bn.running_mean": torch.tensor([1.0, 1e-9]),
        "head.bn.num_batches_tracked": torch.tensor(70000),
        "head.empty": torch.zeros(0),
    }
    torch.save({"state_dict": state}, checkpoint)
    export(CONFIGS / "building_extraction/dynamicvis-nano_upernet_whu-building.py", checkpoint)
    read = read_weights(checkpoint.with_name("x.safetensors"))
    whole = ("backbone.large", "backbone.tiny", "backbone.bfloat", "head.bn.running_var")
    assert caplog.messages == [
        "kept in float32, for float16 cannot hold their values: 4 of 8 tensors, such as backbone.large"
    ]
    for name in whole:
        assert torch.equal(read[name], state[name].float())
    assert read["backbone.edge"].tolist() == [65504.0, 0.0, 0.0]
    assert read["head.bn.num_batches_tracked"] == 70000
    with safe_open(str(checkpoint.with_name("x.safetensors")), "pt") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in state}
    assert kinds == {name: "F32" if name in whole else "F16" for name in state} | {"head.bn.num_batches_tracked": "I64"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"backbone.x": torch.tensor([1.0, float("nan")])}}, "'x' is not written: backbone.x holds NaN"),
        ({"state_dict": {"backbone.x": torch.ones(1)}, "more": Fraction(1, 2)}, "which could run code.*python -c"),
        ({"meta": 1}, "holds no tensors"),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(content: Any, message: str, checkpoint: Path) -> None:
    torch.save(content, checkpoint)
    with pytest.raises(ModelFileError, match=message):
        export(CONFIGS / "building_extraction/dynamicvis-nano_upernet_whu-building.py", checkpoint)
    assert not checkpoint.with_name("x.safetensors").exists()


def test_weights_of_a_wrapped_model_have_their_own_names(checkpoint: Path) -> None:
    state = {"module._orig_mod.backbone.x": torch.ones(2), "module._orig_mod.head.y": torch.ones(1)}
    torch.save({"state_dict": state}, checkpoint)
    export(CONFIGS / "building_extraction/dynamicvis-nano_upernet_whu-building.py", checkpoint)
    assert set(read_weights(checkpoint.with_name("x.safetensors"))) == {"backbone.x", "head.y"}


def test_parts_that_no_file_may_name_are_refused_at_export(checkpoint: Path) -> None:
    name = "building_extraction/dynamicvis-nano_upernet_whu-building.py"
    path = changed(checkpoint.parent, name, **{"model.neck.type": "mypackage.MyNeck"})
    with pytest.raises(ModelFileError, match=r"config\.neck\.type is 'mypackage\.MyNeck', which a model file may not"):
        export(path, checkpoint)


def test_figures_that_are_no_numbers_and_lines_of_text_do_not_reach_the_card(checkpoint: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.json"
    metrics.write_bytes(b'\xef\xbb\xbf{"AP": 0.5, "AP_s": NaN, "per_class": [1], "best_F1": 1.0}')
    name = "building_extraction/dynamicvis-nano_upernet_whu-building.py"
    path = changed(checkpoint.parent, name, **{"model_card.description": "two\n  lines"})
    card = export(path, checkpoint, metrics=metrics)
    assert (card.metrics, card.description) == ({"AP": 0.5}, "two lines")
    metrics.write_text("AP 0.5")
    with pytest.raises(ModelFileError, match=r"metrics\.json is no JSON"):
        export(path, checkpoint, metrics=metrics)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_card = dict(", "is no config"),
        ("model_card = 3", "has no model_card"),
        ("model_card = dict()", "has no model, a dictionary"),
        ("model_card = dict()\nmodel = dict(type='FCOS')", "has no test_dataloader"),
    ],
)
def test_a_config_that_is_none_is_refused(text: str, message: str, checkpoint: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(text)
    with pytest.raises(ModelFileError, match=message):
        export(config, checkpoint)


@pytest.mark.parametrize(("text", "expected"), [("[" * 5000, None), (f'{{"AP": 0.5, "huge": {10**400}}}', {"AP": 0.5})])
def test_figures_that_no_card_can_hold(
    text: str, expected: dict[str, float] | None, checkpoint: Path, tmp_path: Path
) -> None:
    metrics = tmp_path / "metrics.json"
    metrics.write_text(text)
    config = CONFIGS / "building_extraction/dynamicvis-nano_upernet_whu-building.py"
    if expected is None:
        with pytest.raises(ModelFileError, match="is no JSON"):
            export(config, checkpoint, metrics=metrics)
    else:
        assert export(config, checkpoint, metrics=metrics).metrics == expected
