"""What the architecture in a model file may say."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dynamicvis.model_config import config_problem, scopes_of, types_of

PLAIN: dict[str, Any] = {
    "type": "FCOS",
    "backbone": {"type": "dynamicvis.DynamicVis", "arch": "nano", "keep_ratios": [0.125, None], "frozen_stages": 0},
    "neck": {"_scope_": "mmseg", "type": "FPN", "in_channels": [16, 32], "norm_cfg": {"type": "GN", "num_groups": 8}},
    "bbox_head": {
        "type": "FCOSHead",
        "loss_cls": {"type": "mmdet.FocalLoss", "class_weight": [1.0, 2], "loss_weight": 1e30},
        "regress_ranges": [[-1, 64], [512, 100000000]],
        "init_cfg": {
            "type": "Normal",
            "layer": "Conv2d",
            "std": 0.01,
            "override": {"type": "Normal", "name": "conv_cls"},
        },
        "conv_cfg": None,
    },
    "test_cfg": {"nms": {"type": "nms", "iou_threshold": 0.5}, "score_thr": 0.05, "drop_path_rate": 0.1},
    "arch": "regnetx_3.2gf",
}


def with_setting(*place_and_value: Any) -> dict[str, Any]:
    """The plain config with one setting changed or added."""
    *above, key, value = place_and_value
    config = inside = copy.deepcopy(PLAIN)
    for name in above:
        inside = inside[name]
    inside[key] = value
    return config


def test_a_plain_config_is_allowed() -> None:
    assert config_problem(PLAIN) is None
    hard = with_setting("bbox_head", "loss_cls", {"type": "mmseg.OhemCrossEntropy", "min_kept": 131072})
    assert config_problem(hard) is None
    assert config_problem(with_setting("backbone", "arch", "1024/20")) is None
    assert config_problem(with_setting("neck", "roi_layer", {"type": "SimpleRoIAlign"})) is None
    assert scopes_of(PLAIN) == {"dynamicvis", "mmseg", "mmdet"}
    assert types_of(PLAIN) == {"FCOS", "dynamicvis.DynamicVis", "FPN", "GN", "FCOSHead", "mmdet.FocalLoss"}


@pytest.mark.parametrize(
    "kind",
    [
        "os.system", "subprocess.Popen", "torch.nn.Linear", "evil", "evil.Thing", "mmdet.apis", "mmdet.models.FCOS",
        ".FCOS", "FCOS.", "mmdet..FCOS", "FCOS\n", "mmengine.Runner", "mmcv.ops.nms", "dynamicvis.files.replacing",
        "", 5, ["FCOS"],
        {"type": "FCOS"}, "__import__('os').system('true')", "Pretrained", "Normal", "BertModel", "mmseg.FCOS",
        "TIMMBackbone", "mmpretrain.TimmClassifier", "HuggingFaceClassifier", "VPD", "Detectron2Wrapper",
        "KnowledgeDistillationSingleStageDetector", "CameraMotionCompensation", "DetDataPreprocessor", "Flamingo",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "place", [(), ("backbone",), ("test_cfg", "nms"), ("bbox_head", "loss_cls"), ("neck", "norm_cfg")], ids=str
)
def test_types_that_are_no_part_of_a_model(kind: Any, place: tuple[str, ...]) -> None:
    problem = config_problem(with_setting(*place, "type", kind))
    assert problem is not None
    assert problem.startswith(".".join(("config", *place, "type is ")))
    assert "may not build" in problem


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (("neck", "_scope_", "evil"), r"config.neck._scope_ must be one of dynamicvis, mmdet"),
        (("neck", "_scope_", None), r"config.neck._scope_ must be one of"),
        (("_delete_", True), "key '_delete_'"),
        (("custom-imports", {}), "key 'custom-imports'"),
        (("custom_imports", {"imports": ["evil"]}), "custom_imports names a file, address or text"),
        (("pretrained", "http://host/x.pth"), "config.pretrained names a file, address or text"),
        (("backbone", "init_cfg", {"type": "Pretrained", "checkpoint": "x.pth"}), "init_cfg.type is 'Pretrained'"),
        (
            ("backbone", "init_cfg", [{"type": "Normal", "override": {"type": "Pretrained"}}]),
            r"override.type is 'Pretr",
        ),
        (("backbone", "init_cfg", {"type": "FCOS"}), "init_cfg.type is 'FCOS'"),
        (("backbone", "checkpoint_path", "x"), "backbone.checkpoint_path names a file"),
        (("bbox_head", "loss_cls", "class_weight", "weights"), "class_weight names a file"),
        (("bbox_head", "loss_cls", "class_weight", ["weights"]), "class_weight names a file"),
        (("neck", "tokenizer", {"name": "bert"}), "neck.tokenizer names a file"),
        (
            ("neck", "mode", "/etc/passwd"),
            r"config.neck.mode is the text '/etc/passwd', where a config has plain words",
        ),
        (("neck", "mode", "weights.pth"), "where a config has plain words"),
        (("neck", "mode", "open('x', 'w')"), "where a config has plain words"),
        (("neck", "mode", "a\x1b[2J"), r"is the text 'a\\x1b\[2J'"),
        (("neck", "mode", "x" * 101), "where a config has plain words"),
        (("neck", "in_channels", [16, 65537]), r"config.neck.in_channels\[1\] is an integer beyond 65536"),
        (("neck", "in_channels", -(10**5000)), "is an integer beyond"),
        (("bbox_head", "regress_ranges", [[0, 10**10]]), "is an integer beyond"),
        (("neck", "momentum", float("nan")), "config.neck.momentum is not a finite number"),
        (("neck", "hook", print), "of a kind that JSON does not have"),
        (("neck", 5, 1), "key '5'"),
        (("neck", "many", [0] * 20_001), "more than 20000 values"),
    ],
)
def test_settings_that_open_files_or_take_too_much(setting: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raise ValueError(config_problem(with_setting(*setting)))


def test_choices_within_one_class() -> None:
    grid = {"type": "FPG", "paths": ["bu", "td"], "same_up_trans": {"type": "conv", "norm_cfg": {"type": "BN"}}}
    assert config_problem(with_setting("neck", grid | {"output_trans": {"type": "last_conv"}})) is None
    assert config_problem(with_setting("bbox_head", "adapt_cfg", {"type": "dilation", "dilation": 3})) is None
    for place in (("neck", "paths", ["bu", "/etc"]), ("neck", "paths", "bu"), ("neck", "paths", [["bu"]])):
        assert "config.neck.paths names a file" in str(config_problem(with_setting(*place)))
    for place in (("neck", "same_up_trans", {"type": "dilation"}), ("neck", "adapt", {"type": "conv"})):
        assert "may not build" in str(config_problem(with_setting(*place)))


def test_deep_nesting() -> None:
    nested: Any = 1
    for _ in range(500):
        nested = [nested]
    assert config_problem(with_setting("neck", "x", nested)) == "config is nested deeper than 40"
    assert config_problem([]) == "config must be a dictionary"
