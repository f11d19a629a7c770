from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from tools_helpers import ROOT
from torch import Tensor

from dynamicvis import create_backbone
from dynamicvis.data.raster import write_raster

PUBLISHED = {"building_extraction": "whu-building", "road_segmentation": "massachusetts-roads"}
OWN = {"building_extraction": "oam-buildings", "road_segmentation": "massachusetts-roads-windows"}
CONFIGS = [
    f"{task}/dynamicvis-{arch}_upernet_{data}.py"
    for task, data in PUBLISHED.items()
    for arch in ("nano", "base", "large")
]
CONFIGS += [f"{task}/dynamicvis-nano_upernet_{data}.py" for task, data in OWN.items()]


@pytest.fixture(autouse=True)
def mmseg_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def load(name: str) -> Config:
    return Config.fromfile(ROOT / "configs" / name)


def build(config: Config) -> Any:
    from mmseg.registry import MODELS

    return revert_sync_batchnorm(MODELS.build(config.model))


def small(name: str = CONFIGS[0], **test_cfg: Any) -> Any:
    """A segmentor of the test backbone with narrow heads."""
    config = load(name)
    config.merge_from_dict(
        {
            "model.backbone.arch": "test_nano",
            "model.backbone.img_size": 64,
            "model.neck": {"in_channels": [16, 32, 48, 64], "out_channels": 16},
            "model.decode_head": {"in_channels": [16] * 4, "channels": 16},
            "model.auxiliary_head": {"in_channels": 16, "channels": 16},
            "model.data_preprocessor.size": (64, 64),
            "model.test_cfg": test_cfg or {"mode": "whole"},
        }
    )
    torch.manual_seed(0)
    return build(config).eval()


def sample(height: int, width: int, truth: Tensor | None = None) -> Any:
    from mmseg.structures import SegDataSample

    shape = (height, width)
    made = SegDataSample(metainfo={"img_shape": shape, "ori_shape": shape})
    if truth is not None:
        made.gt_sem_seg = PixelData(data=truth[None])
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_fits_its_backbone_and_learns(name: str) -> None:
    config = load(name)
    arch = Path(name).name.split("_")[0].removeprefix("dynamicvis-")
    assert config.model.backbone.arch == arch
    assert tuple(config.model.neck.in_channels) == create_backbone(arch).dims
    assert config.model.backbone.noise == dict(start=0.1, end=1e-4)
    model = build(config)
    truth = torch.randint(0, 2, (64, 64))
    losses = model.loss(torch.randn(2, 3, 64, 64), [sample(64, 64, truth)] * 2)
    assert {"decode.loss_ce", "aux.loss_ce"} <= set(losses)
    loss = losses["decode.loss_ce"] + losses["aux.loss_ce"]
    loss.backward()
    assert torch.isfinite(loss)
    # Routers learn nothing where so small a map keeps one token; all else has a gradient.
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert all(".router." in key for key in without), without


@pytest.mark.parametrize("task", PUBLISHED)
def test_settings_of_the_reference(task: str) -> None:
    config = load(f"{task}/dynamicvis-base_upernet_{PUBLISHED[task]}.py")
    model = config.model
    assert (model.neck.out_channels, model.neck.num_outs) == (256, 4)
    assert (model.decode_head.type, model.decode_head.channels) == ("UPerHead", 512)
    assert tuple(model.decode_head.pool_scales) == (1, 2, 3, 6)
    assert (model.auxiliary_head.in_index, model.auxiliary_head.channels, model.auxiliary_head.num_convs) == (2, 256, 1)
    assert model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert (tuple(model.test_cfg.crop_size), tuple(model.test_cfg.stride)) == ((1024, 1024), (512, 512))
    assert config.optim_wrapper.optimizer.lr == 1e-3
    assert config.train_cfg.max_epochs == {"building_extraction": 800, "road_segmentation": 1200}[task]
    assert config.train_dataloader.batch_size == 8
    assert config.param_scheduler[1].eta_min_ratio == 1e-3
    assert "eta_min" not in config.param_scheduler[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_selection_is_on_validation_and_never_on_test(name: str) -> None:
    config = load(name)
    used = []
    for split in ("train", "val", "test"):
        dataset = config[f"{split}_dataloader"].dataset
        dataset = dataset.get("dataset", dataset)
        used.append(dataset.get("split") or dataset.get("ann_file") or dataset.data_prefix.img_path)
    assert [entry.split("/")[0].split(".")[0] for entry in used] == ["train", "val", "test"]
    foreground = {"building_extraction": "building", "road_segmentation": "road"}[name.split("/")[0]]
    assert config.default_hooks.checkpoint.save_best == f"seg/IoU_{foreground}"
    assert config.default_hooks.checkpoint.rule == "greater"


def test_weight_decay_spares_norms_biases_and_state_parameters() -> None:
    config = load(CONFIGS[0])
    model = small()
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    spared = {key for key, parameter in model.named_parameters() if not decay[parameter]}
    expected = {
        key
        for key, parameter in model.named_parameters()
        if parameter.ndim == 1 or key.endswith(("A_log", ".D", "pos_embed"))
    }
    assert spared == expected
    assert len(decay) == len(list(model.parameters()))


def pointwise(model: Any) -> Any:
    """Make the logits of a pixel depend on that pixel alone, and count how often each is seen."""
    model.seen = []

    def encode_decode(inputs: Tensor, metas: list[dict]) -> Tensor:
        model.seen.append(tuple(inputs.shape[-2:]))
        return torch.cat([inputs.sum(1, keepdim=True), inputs[:, :1] ** 2], dim=1)

    model.encode_decode = encode_decode
    return model


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 130), (100, 90), (40, 200), (33, 21)])
@pytest.mark.parametrize("stride", [(64, 64), (32, 32), (40, 24)])
def test_windows_cover_every_pixel_and_agree_with_the_whole(height: int, width: int, stride: tuple[int, int]) -> None:
    images = torch.randn(2, 3, height, width)
    metas = [sample(height, width).metainfo] * 2
    model = pointwise(small(mode="slide", crop_size=(64, 64), stride=stride))
    sliding = model.inference(images, metas)
    torch.testing.assert_close(sliding, model.whole_inference(images, metas))
    assert set(model.seen[:-1]) == {(min(64, height), min(64, width))}


def test_one_window_over_everything_is_the_whole() -> None:
    images = torch.randn(1, 3, 64, 48)
    metas = [sample(64, 48).metainfo]
    model = small(mode="slide", crop_size=(64, 64), stride=(32, 32))
    with torch.no_grad():
        torch.testing.assert_close(model.inference(images, metas), model.whole_inference(images, metas))


def test_predictions_have_the_size_of_the_image() -> None:
    model = small()
    data = {"inputs": [torch.randint(0, 255, (3, 64, 96))], "data_samples": [sample(64, 96)]}
    data["data_samples"][0].set_metainfo({"ori_shape": (40, 60)})
    result = model.test_step(data)[0]
    assert result.pred_sem_seg.data.shape == (1, 40, 60)


@pytest.mark.parametrize("name", [CONFIGS[0], CONFIGS[3], CONFIGS[6], CONFIGS[7]])
def test_flips_in_testing_are_averaged_on_the_pixels_they_came_from(name: str, tmp_path: Path) -> None:
    from mmseg.registry import MODELS

    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    write_raster(tmp_path / "image.tif", pixels)
    mask = generator.integers(0, 2, (50, 70)).astype(np.uint8)
    lowest = {"massachusetts-roads-windows": 1}.get(name.split("_upernet_")[1].removesuffix(".py"), 255)
    assert cv2.imwrite(str(tmp_path / "mask.png"), mask * lowest)
    config = load(name)
    (flips,) = [step for step in config.tta_pipeline if step.type == "TestTimeAug"]
    flips.transforms = [group for group in flips.transforms if group[0].type != "Resize"]
    item = {"img_path": str(tmp_path / "image.tif"), "seg_map_path": str(tmp_path / "mask.png"), "seg_fields": []}
    batch = pseudo_collate([Compose(config.tta_pipeline)(item)])
    assert len(batch["inputs"]) == 3

    model = small(name)
    image = model.data_preprocessor({"inputs": [torch.from_numpy(pixels).permute(2, 0, 1)]})["inputs"]
    expected = torch.zeros(2, 50, 70)
    with torch.no_grad():
        first, second = model.encode_decode(image, [sample(50, 70).metainfo])[0]
        model.decode_head.conv_seg.bias[0] += (second - first).median()  # both classes are predicted
        for axes in ((), (3,), (2,)):
            logits = model.encode_decode(image.flip(axes), [sample(50, 70).metainfo]).flip(axes)
            expected += logits[0].softmax(0) / 3
    config.tta_model.module = model
    result = MODELS.build(config.tta_model).test_step(batch)[0]
    assert 0.2 < expected.argmax(0).float().mean() < 0.8
    np.testing.assert_array_equal(result.pred_sem_seg.data.squeeze(0), expected.argmax(0))
    np.testing.assert_array_equal(result.gt_sem_seg.data[0], mask)


def test_preprocessor_of_five_bands_normalises_and_pads() -> None:
    from mmseg.registry import MODELS

    mean, std = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 4.0, 5.0, 8.0, 10.0]
    settings = {"mean": mean, "std": std, "size": (8, 8), "pad_val": 0, "seg_pad_val": 255}
    preprocessor = MODELS.build({"type": "dynamicvis.SegDataPreProcessor", **settings})
    images = [torch.randn(5, 6, 8), torch.randn(5, 8, 4)]
    truths = [torch.ones(6, 8, dtype=torch.long), torch.zeros(8, 4, dtype=torch.long)]
    data = {
        "inputs": images,
        "data_samples": [sample(*truth.shape, truth) for truth in truths],
    }
    result = preprocessor(data, training=True)
    assert result["inputs"].shape == (2, 5, 8, 8)
    scale = torch.tensor(std).view(5, 1, 1)
    expected = (images[0] - torch.tensor(mean).view(5, 1, 1)) / scale
    torch.testing.assert_close(result["inputs"][0, :, :6], expected)
    assert (result["inputs"][0, :, 6:] == 0).all()
    padded = result["data_samples"][1].gt_sem_seg.data[0]
    assert (padded[:, :4] == 0).all()
    assert (padded[:, 4:] == 255).all()


def test_preprocessor_names_a_wrong_number_of_bands() -> None:
    from mmseg.registry import MODELS

    preprocessor = MODELS.build({"type": "dynamicvis.SegDataPreProcessor", "mean": [0.0] * 4, "std": [1.0] * 4})
    for bands in (3, 1):
        with pytest.raises(ValueError, match=f"an image has {bands} bands, but mean and std.* for 4"):
            preprocessor({"inputs": [torch.zeros(bands, 8, 8)], "data_samples": [sample(8, 8)]})
