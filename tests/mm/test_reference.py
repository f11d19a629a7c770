"""Configs as the reference's are, small, and checkpoints in its key layout."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import load_checkpoint

import dynamicvis.mm.reference  # noqa: F401
from dynamicvis.checkpoint import CheckpointError
from dynamicvis.mm.reference.arguments import UnsupportedSetting

sys.path.append(str(Path(__file__).parents[1] / "backbone"))
from golden import NAMES, Golden

TINY = {"c_embed_dims": [16, 32, 48, 64], "num_layers": [1, 1, 2, 1]}


def backbone(**settings: Any) -> dict[str, Any]:
    """Config of the backbone with the arguments that every released config gives."""
    return {
        "type": "mmpretrain.DynamicVisBackbone",
        "arch": TINY,
        "path_type": "forward_reverse_mean",
        "sampling_scale": {"type": "decay", "val": 0.1},
        "global_token_cfg": {"pos": "head", "num": -1},
        "is_softmax_on_x": True,
        "img_size": 64,
        "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 2],
        "spatial_token_keep_ratios": [8, 4, 2, 1],
        "out_indices": (0, 1, 2, 3),
        "out_type": "featmap",
        **settings,
    }


def build(config: dict[str, Any], scope: str) -> Any:
    """The model of a config with this default scope."""
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(Config(config)._cfg_dict)


def reference_checkpoint(path: Path, name: str = NAMES[0], **more: torch.Tensor) -> Path:
    """A checkpoint as a run of the reference writes it: its keys, and the history of the run."""
    state_dict = Golden(name).group("state_dict")
    hub = {"log_scalars": {"train/loss": HistoryBuffer([1.0, 2.0], [1, 1])}, "runtime_info": {"epoch": 200}}
    torch.save({"state_dict": state_dict | more, "message_hub": hub, "meta": {"epoch": 200}}, path)
    return path


def golden_settings(name: str) -> dict[str, Any]:
    """The arguments that the reference would be given for a golden file."""
    value = {key: ast.literal_eval(text) for key, text in Golden(name).settings.items()}
    return {
        "arch": {"c_embed_dims": value["dims"], "num_layers": value["depths"]},
        "spatial_token_keep_ratios": list(value["ratios"]),
        "global_token_cfg": {"pos": "head", "num": -1} if value["global_tokens"] else {"pos": "none", "num": 0},
        "is_softmax_on_x": value["is_softmax_on_x"],
        "img_size": value["img_size"],
    }


@pytest.mark.parametrize("name", NAMES)
def test_computes_what_the_reference_does_with_its_checkpoint(name, tmp_path):
    golden = Golden(name)
    init_cfg = {
        "type": "Pretrained",
        "checkpoint": str(reference_checkpoint(tmp_path / "epoch_200.pth", name)),
        "prefix": "backbone.",
    }
    model = build(backbone(**golden_settings(name), init_cfg=init_cfg), "mmpretrain").eval()
    model.init_weights()
    for stage, output in enumerate(model(golden.tensors["input"])):
        expected = golden.tensors[f"output/{stage}"]
        assert (output - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_classifier_of_its_configs_trains_and_loads_its_pretraining(tmp_path):
    from mmpretrain.structures import DataSample

    path = reference_checkpoint(tmp_path / "epoch_200.pth")
    settings = golden_settings(NAMES[0]) | {"out_indices": (3,), "out_type": "avg_featmap", "frozen_stages": 1}
    width = settings["arch"]["c_embed_dims"][-1]
    model = build(
        {
            "type": "ImageClassifier",
            "data_preprocessor": {"num_classes": 5, "mean": [120.0] * 3, "std": [60.0] * 3, "to_rgb": True},
            "backbone": backbone(
                **settings, init_cfg={"type": "Pretrained", "checkpoint": str(path), "prefix": "backbone."}
            ),
            "head": {
                "type": "DynamicVisClsHead",
                "num_classes": 5,
                "in_channels": width,
                "loss": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
            },
            "train_cfg": {"augments": [{"type": "Mixup", "alpha": 0.8}, {"type": "CutMix", "alpha": 1.0}]},
        },
        "mmpretrain",
    )
    model.init_weights()
    features = model.eval().backbone(Golden(NAMES[0]).tensors["input"])
    expected = Golden(NAMES[0]).tensors["output/3"].mean(dim=(2, 3))
    torch.testing.assert_close(
        features[0], torch.nn.functional.layer_norm(expected, (width,), eps=1e-6), atol=1e-3, rtol=0
    )
    model.train()
    batch = {
        "inputs": [torch.randint(0, 255, (3, 64, 64)) for _ in range(4)],
        "data_samples": [DataSample().set_gt_label(label) for label in range(4)],
    }
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
    losses["loss"].backward()
    assert model.backbone.post_meanpool_norm.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.backbone.stages[0].parameters())


def test_whole_models_load_its_checkpoints_by_its_names(tmp_path):
    names = {"head.fc.weight": torch.full((5, 64), 2.0), "head.fc.bias": torch.full((5,), 3.0)}
    settings = golden_settings(NAMES[0])
    names["head.fc.weight"] = torch.full((5, settings["arch"]["c_embed_dims"][-1]), 2.0)
    norm = torch.full((settings["arch"]["c_embed_dims"][-1],), 4.0)
    names |= {"backbone.post_meanpool_norm.weight": norm, "backbone.post_meanpool_norm.bias": norm}
    path = reference_checkpoint(tmp_path / "best.pth", **names)
    config = {
        "type": "ImageClassifier",
        # Twice the size: the position embedding is resampled.
        "backbone": backbone(**settings | {"out_indices": (3,), "out_type": "avg_featmap", "img_size": 128}),
        "head": {"type": "DynamicVisClsHead", "num_classes": 5, "in_channels": len(norm)},
    }
    model = build(config, "mmpretrain")
    load_checkpoint(model, str(path), map_location="cpu", strict=True)
    assert (model.head.fc.weight == 2).all()
    assert (model.backbone.post_meanpool_norm.bias == 4).all()
    weights = Golden(NAMES[0]).group("state_dict")
    torch.testing.assert_close(
        model.backbone.stages[1].merge.projection.weight, weights["backbone.layers.1.0.projection.weight"]
    )
    assert model.backbone.pos_embed.shape[1] == 32 * 32
    assert model.backbone.pos_embed.mean().item() == pytest.approx(
        weights["backbone.pos_embed"].mean().item(), abs=1e-3
    )


def test_checkpoint_of_another_architecture_is_refused(tmp_path):
    path = reference_checkpoint(tmp_path / "x.pth")
    init_cfg = {"type": "Pretrained", "checkpoint": str(path), "prefix": "backbone."}
    deeper = golden_settings(NAMES[0])
    deeper["arch"] = {**deeper["arch"], "num_layers": [9, 9, 9, 9]}
    with pytest.raises(CheckpointError, match=r"x\.pth gives only \d+ of the backbone's \d+ parameters"):
        build(backbone(**deeper, init_cfg=init_cfg), "mmpretrain").init_weights()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mamba2": True}, "mamba2=True"),
        ({"arch": "h"}, "arch='h'"),
        ({"path_type": "forward_reverse_gate"}, "path_type='forward_reverse_gate'"),
        ({"path_type": "forward_reverse_shuffle_mean"}, "path_type='forward_reverse_shuffle_mean'"),
        ({"path_type": "forward"}, "path_type='forward'"),
        ({"global_token_cfg": {"pos": "mid", "num": -1}}, "pos='mid'"),
        ({"global_token_cfg": {"pos": "head", "num": 4}}, "num=4"),
        ({"branch_format": "channel"}, "branch_format='channel'"),
        ({"strides": [2, 2, 2, 2]}, "strides"),
        ({"with_pe": False}, "with_pe=False"),
        ({"norm_topk_prob": True}, "norm_topk_prob=True"),
        ({"loading_loss": True}, "loading_loss=True"),
        ({"out_type": "raw"}, "out_type='raw'"),
        ({"sampling_scale": {"type": "step", "val": 0.1}}, "type='step'"),
        ({"drop_path": 0.1}, "drop_path=0.1"),
    ],
)
def test_settings_without_equivalent_are_named(settings, message):
    with pytest.raises(UnsupportedSetting, match=f"{message}.*not supported"):
        build(backbone(**settings), "mmpretrain")


def test_keep_ratios_noise_and_frozen_stages_are_translated():
    model = build(backbone(arch="l", frozen_stages=2, spatial_token_keep_ratios=[0, 4, 2, 1]), "mmdet")
    assert model.dims == (128, 256, 512, 1024)
    assert [stage.keep_ratio for stage in model.stages] == [None, 1 / 4, 1 / 2, 1]
    assert (model.noise.start, model.noise.end, model.frozen_stages) == (0.1, 1e-4, 2)
    assert build(backbone(sampling_scale={"type": "fixed", "val": 0.3}), "mmdet").noise == 0.3
    assert build(backbone(sampling_scale=None, frozen_stages=-1), "mmdet").noise == 0.0


def test_noise_decays_with_the_epochs_without_a_hook(monkeypatch):
    from mmengine.logging import MessageHub

    model = build(backbone(), "mmpretrain").train()
    images = torch.randn(1, 3, 64, 64)
    hub = MessageHub("run of a test")
    monkeypatch.setattr(MessageHub, "get_current_instance", lambda: hub)
    model(images)
    assert model.noise.progress == 0
    for name, value in {"epoch": 3, "max_epochs": 4, "iter": 1, "max_iters": 100}.items():
        hub.update_info(name, value)
    model.eval()(images)
    assert model.noise.progress == 0
    model.train()(images)
    assert model.noise.progress == 3 / 4
    hub.update_info("max_epochs", 1)
    model(images)
    assert model.noise.progress == 1 / 100


def test_load_balancing_of_its_head_is_refused():
    head = {"type": "DynamicVisClsHead", "num_classes": 2, "in_channels": 4, "load_balancing_loss_cfg": {"val": 0.1}}
    with pytest.raises(UnsupportedSetting, match="load_balancing_loss_cfg"):
        build(head, "mmpretrain")


def extractor(size: int, path: Path) -> dict[str, Any]:
    return {
        "type": "GenericRoIExtractor",
        "aggregation": "sum",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 2, "use_torchvision": True},
        "out_channels": 256,
        "featmap_strides": [4, 8, 16, 32],
        "pre_cfg": {
            "type": "ConvModule",
            "in_channels": 256,
            "out_channels": 256,
            "kernel_size": 5,
            "padding": 2,
            "inplace": False,
        },
        "post_cfg": {
            "type": "GeneralizedAttention",
            "in_channels": 256,
            "spatial_range": -1,
            "num_heads": 6,
            "attention_type": "0100",
            "kv_stride": 2,
        },
        "init_cfg": {"type": "Pretrained", "checkpoint": str(path), "prefix": "neck."},
    }


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A pretraining checkpoint of the reference's layout: backbone, FPN, extractor, head."""
    from dynamicvis.pretraining import FeaturePyramid, RegionExtractor

    torch.manual_seed(1)
    dims = golden_settings(NAMES[0])["arch"]["c_embed_dims"]
    parts = {"pre_neck": FeaturePyramid(dims), "neck": RegionExtractor()}
    names = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    names["neck.post_module.gamma"] = torch.ones(1)
    path = tmp_path_factory.mktemp("reference") / "epoch_200.pth"
    return reference_checkpoint(path, **names)


def test_necks_and_extractors_of_mmdet_take_its_pretraining(pretrained):
    fpn = {
        "type": "FPN",
        "in_channels": golden_settings(NAMES[0])["arch"]["c_embed_dims"],
        "out_channels": 256,
        "num_outs": 5,
        "init_cfg": {"type": "Pretrained", "checkpoint": str(pretrained), "prefix": "pre_neck."},
    }
    saved = torch.load(pretrained, weights_only=False)["state_dict"]
    neck = build(fpn, "mmdet")
    neck.init_weights()
    assert torch.equal(neck.fpn_convs[3].conv.weight, saved["pre_neck.fpn_convs.3.conv.weight"])
    for config, name in ((extractor(7, pretrained), "post_module.query_conv.weight"),):
        module = build(config, "mmdet")
        module.init_weights()
        assert torch.equal(module.state_dict()[name], saved[f"neck.{name}"])
        assert module.post_module.gamma.item() == 1


def siamese(path: Path | None = None) -> dict[str, Any]:
    """The model of its configs for change detection."""
    norm = {"type": "SyncBN", "requires_grad": True}
    init = None if path is None else {"type": "Pretrained", "checkpoint": str(path), "prefix": "pre_neck."}
    settings = golden_settings(NAMES[0])
    return {
        "type": "SiamEncoderDecoder",
        "data_preprocessor": {
            "type": "DualInputSegDataPreProcessor",
            "mean": [123.675, 116.28, 103.53] * 2,
            "std": [58.395, 57.12, 57.375] * 2,
            "bgr_to_rgb": True,
            "size_divisor": 32,
            "pad_val": 0,
            "seg_pad_val": 255,
            "test_cfg": {"size_divisor": 32},
        },
        "backbone": backbone(**settings),
        "neck": {
            "type": "SequentialNeck",
            "necks": [
                {
                    "type": "DualInputsFPN",
                    "in_channels": settings["arch"]["c_embed_dims"],
                    "out_channels": 256,
                    "num_outs": 5,
                    "init_cfg": init,
                },
                {"type": "DualInputsSimpleFusionNeck", "in_channels": [256] * 5, "return_tuple": True},
                {
                    "type": "mmseg.UNetDecodeNeck",
                    "in_channels": [256] * 5,
                    "dec_num_convs": (2, 2, 2, 2),
                    "dec_dilations": (1, 1, 1, 1),
                    "with_cp": False,
                    "conv_cfg": None,
                    "norm_cfg": norm,
                    "act_cfg": {"type": "ReLU"},
                    "upsample_cfg": {"type": "mmseg.InterpConv"},
                },
            ],
        },
        "decode_head": {
            "type": "MLPSegHead",
            "out_size": (16, 16),
            "in_channels": [256] * 5,
            "in_index": [0, 1, 2, 3, 4],
            "channels": 256,
            "dropout_ratio": 0,
            "num_classes": 2,
            "norm_cfg": norm,
            "align_corners": False,
            "loss_decode": [
                {"type": "mmseg.CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
                {"type": "mmseg.DiceLoss", "loss_weight": 3.0},
            ],
        },
        "train_cfg": {},
        "test_cfg": {"mode": "slide", "crop_size": (64, 64), "stride": (32, 32)},
    }


def test_change_detector_of_its_configs_trains_and_predicts(pretrained):
    from mmengine.model import revert_sync_batchnorm
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = revert_sync_batchnorm(build(siamese(pretrained), "opencd"))
    model.init_weights()
    saved = torch.load(pretrained, weights_only=False)["state_dict"]
    assert torch.equal(model.neck.necks[0].lateral_convs[1].conv.weight, saved["pre_neck.lateral_convs.1.conv.weight"])
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64)})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 2, (1, 64, 64)))
        samples.append(sample)
    batch = {"inputs": [torch.randint(0, 255, (6, 64, 64)) for _ in samples], "data_samples": samples}
    with DefaultScope.overwrite_default_scope("opencd"):
        prepared = model.data_preprocessor({**batch}, training=True)
        losses = model(**prepared, mode="loss")
        assert {"decode.loss_ce", "decode.loss_dice"} <= set(losses)
        sum(loss for name, loss in losses.items() if "loss" in name).backward()
        # An image wider than the crop, whatever out_size says.
        wide = SegDataSample(metainfo={"img_shape": (64, 96), "ori_shape": (64, 96)})
        wide_batch = {"inputs": [torch.randint(0, 255, (6, 64, 96))], "data_samples": [wide]}
        result = model.eval().test_step(wide_batch)[0]
    assert result.pred_sem_seg.data.shape == (1, 64, 96)
    assert model.backbone.stages[0].merge.projection.weight.grad.abs().sum() > 0
    # Both dates are brought to red, green, blue.
    image = batch["inputs"][0].float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    torch.testing.assert_close(prepared["inputs"][0, 3:], (image[[5, 4, 3]] - mean) / std, atol=1e-4, rtol=0)


def test_settings_of_its_decoder_without_equivalent_are_named():
    decoder = {"type": "mmseg.UNetDecodeNeck", "dec_dilations": (1, 2, 1, 1)}
    with pytest.raises(UnsupportedSetting, match="dec_dilations"):
        build(decoder, "opencd")


def pretraining_model(**head: Any) -> dict[str, Any]:
    """The model of its pretraining config."""
    settings = golden_settings(NAMES[0])
    neck = extractor(7, Path())
    del neck["init_cfg"]
    return {
        "type": "mmpretrain.DynamicVisPretrainClassifier",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
            "bgr_to_rgb": True,
            "pad_size_divisor": 32,
        },
        "backbone": backbone(**settings, sampling_scale={"type": "fixed", "val": 0.1}),
        "pre_neck": {
            "type": "FPN",
            "in_channels": settings["arch"]["c_embed_dims"],
            "out_channels": 256,
            "num_outs": 5,
        },
        "neck": neck,
        "head": {
            "type": "mmpretrain.DynamicVisPretrainClsHead",
            "num_classes": 63,
            "with_mil": True,
            "in_channels": 256,
            "loss": {"type": "mmpretrain.LabelSmoothLoss", "label_smooth_val": 0.1, "mode": "original"},
            **head,
        },
    }


def test_pretraining_model_of_its_configs_trains_and_is_evaluated_by_its_metric(pretrained):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    from mmpretrain.evaluation import SingleLabelMetric

    model = build(pretraining_model(), "mmdet")
    head = model.head.state_dict()
    assert {key: tuple(value.shape) for key, value in head.items()} == {
        "fc.weight": (63, 256),
        "fc.bias": (63,),
        "category_embedding.weight": (63, 256),
        "logit_scale": (),
    }
    load_checkpoint(model, str(pretrained), map_location="cpu")
    saved = torch.load(pretrained, weights_only=False)["state_dict"]
    assert torch.equal(model.neck.post_module.value_conv.weight, saved["neck.post_module.value_conv.weight"])
    assert torch.equal(model.pre_neck.fpn_convs[0].conv.weight, saved["pre_neck.fpn_convs.0.conv.weight"])
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64)})
        boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0], [20.0, 20.0, 60.0, 60.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([3, 62]))
        samples.append(sample)
    batch = {"inputs": [torch.randint(0, 255, (3, 64, 64)) for _ in samples], "data_samples": samples}
    losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
    sum(losses.values()).backward()
    assert model.head.category_embedding.weight.grad.abs().sum() > 0
    metric = SingleLabelMetric(num_classes=63)
    results = model.eval().test_step(batch)
    metric.process(batch, [result.to_dict() for result in results])
    assert [tuple(result.pred_label.shape) for result in results] == [(2,), (2,)]
    # All four regions count, though there are two images.
    expected = 100 * sum((result.gt_label == result.pred_label).sum().item() for result in results) / 4
    figures = SingleLabelMetric.calculate(
        torch.cat([result.pred_label for result in results]),
        torch.cat([result.gt_label for result in results]),
        num_classes=63,
        average="micro",
    )
    assert figures[1].item() == pytest.approx(expected)
    assert len(metric.results) == 2
    assert "single-label/f1-score" in metric.evaluate(2)


@pytest.mark.parametrize(
    ("part", "setting", "message"),
    [
        ("neck", {"aggregation": "concat"}, "aggregation='concat'"),
        ("neck", {"featmap_strides": [8, 16]}, "featmap_strides"),
        ("pre_neck", {"num_outs": 4}, "num_outs=4"),
        ("pre_neck", {"start_level": 1}, "start_level=1"),
        ("head", {"loss": {"type": "FocalLoss"}}, "type='FocalLoss'"),
    ],
)
def test_settings_of_its_pretraining_without_equivalent_are_named(part, setting, message):
    config = pretraining_model()
    config[part] = config[part] | setting
    with pytest.raises(UnsupportedSetting, match=message):
        build(config, "mmdet")


def test_released_pretraining_has_the_parameters_of_the_reference():
    config = pretraining_model()
    config["backbone"] |= {"arch": "b", "img_size": 512, "is_softmax_on_x": True}
    config["pre_neck"]["in_channels"] = [96, 192, 384, 768]
    with torch.device("meta"):
        model = build(config, "mmdet")
    counts = {
        name: sum(parameter.numel() for parameter in getattr(model, name).parameters())
        for name in ("backbone", "pre_neck", "neck", "head")
    }
    assert counts == {"backbone": 36_745_536, "pre_neck": 2_729_984, "neck": 1_638_656 + 258_305, "head": 32_320}
