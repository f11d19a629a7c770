from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from change_scenes import make_levir_cd
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from tools_helpers import ROOT
from torch import Tensor

from dynamicvis.mm.change.datasets import ChangeFolder
from dynamicvis.mm.change.decoder import ConcatFusion, MLPSegHead, UNetDecoder
from dynamicvis.mm.change.loss import SoftDiceLoss, WeightedCrossEntropyLoss, dice_loss
from dynamicvis.registry import MODELS


def small_model(bands: int = 3, **changes: Any) -> torch.nn.Module:
    config = Config.fromfile(ROOT / "configs/change_detection/dynamicvis-nano_siamese-unet_levir-cd.py")
    config.merge_from_dict(
        {
            "model.backbone.arch": "test_nano",
            "model.backbone.img_size": 64,
            "model.backbone.in_channels": bands,
            "model.pre_neck.in_channels": [16, 32, 48, 64],
            "model.data_preprocessor.size": (64, 64),
            "model.data_preprocessor.mean": [0.0] * 2 * bands,
            "model.data_preprocessor.std": [1.0] * 2 * bands,
            "model.test_cfg.crop_size": (64, 64),
            "model.test_cfg.stride": (32, 32),
            **changes,
        }
    )
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(config.model))
    model.init_weights()
    return model


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return small_model().eval()


def pairs(batch: int, height: int, width: int, bands: int = 3) -> Tensor:
    return torch.randn(batch, 2 * bands, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_dates_share_everything_but_their_half_of_the_fusion(model: torch.nn.Module) -> None:
    images = pairs(2, 64, 96)
    swapped = torch.cat([images[:, 3:], images[:, :3]], dim=1)
    mirrored = copy.deepcopy(model)
    for conv in mirrored.fusion.convs:
        weight = conv.conv.weight
        half = weight.shape[1] // 2
        weight.copy_(torch.cat([weight[:, half:], weight[:, :half]], dim=1))
    expected = model(images)
    torch.testing.assert_close(mirrored(swapped), expected, rtol=1e-4, atol=1e-5)
    # Which date comes first matters to a fusion that treats them differently.
    assert (model(swapped) - expected).abs().max() > 1e-3 * expected.abs().max()


@torch.no_grad()
def test_pairs_of_a_batch_stay_together(model: torch.nn.Module) -> None:
    images = pairs(3, 64, 64)
    together = model(images)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 75), (37, 130)])
def test_output_follows_the_size_of_the_input(height: int, width: int, model: torch.nn.Module) -> None:
    logits = model(pairs(1, height, width))
    assert logits.shape == (1, 2, -(-height // 4), -(-width // 4))
    samples = [SegDataSample(metainfo={"ori_shape": (50, 60), "img_shape": (height, width)})]
    result = model.predict(pairs(1, height, width), samples)[0]
    assert result.seg_logits.data.shape == (2, 50, 60)


@torch.no_grad()
def test_slide_inference_covers_images_of_any_size(model: torch.nn.Module) -> None:
    for height, width in ((64, 64), (150, 70), (40, 200)):
        meta = [{"ori_shape": (height, width), "img_shape": (height, width)}]
        logits = model.inference(pairs(1, height, width), meta)
        assert logits.shape == (1, 2, height, width)
        assert logits.isfinite().all()
    # On an image of one window it is the whole inference.
    images = pairs(1, 64, 64)
    meta = [{"ori_shape": (64, 64), "img_shape": (64, 64)}]
    torch.testing.assert_close(model.slide_inference(images, meta), model.whole_inference(images, meta))


def test_one_step_of_training_moves_every_part_and_lowers_the_loss() -> None:
    model = small_model(bands=5).train()
    images = pairs(4, 64, 64, bands=5)
    truth = torch.zeros(4, 1, 64, 64, dtype=torch.long)
    truth[:, :, 16:40, 16:40] = 1
    images[:, 5:, 16:40, 16:40] += 3
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in truth]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(8):
        losses = model.loss(images, samples)
        loss = losses["decode.loss_ce"] + losses["decode.loss_dice"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.7 * history[0]
    for name in ("backbone.stages", "pre_neck", "fusion", "neck", "decode_head"):
        gradients = [p.grad for key, p in model.named_parameters() if key.startswith(name)]
        assert gradients
        assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients), name


def test_parameters_of_the_pyramid_have_the_names_of_the_reference(model: torch.nn.Module) -> None:
    names = set(model.state_dict())
    assert {"pre_neck.lateral_convs.0.conv.weight", "pre_neck.fpn_convs.3.conv.bias"} <= names
    assert {name.split(".")[0] for name in names} == {"backbone", "pre_neck", "fusion", "neck", "decode_head"}


def test_an_odd_number_of_bands_is_refused(model: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"two dates one after the other, got 7, which is odd"):
        model(torch.zeros(1, 7, 64, 64))


def test_fusion_is_a_linear_map_of_both_dates() -> None:
    torch.manual_seed(0)
    fusion = ConcatFusion([4, 6]).eval()
    first, second = ([torch.randn(2, channels, 5, 7) for channels in (4, 6)] for _ in range(2))
    for index, result in enumerate(fusion(first, second)):
        weight = fusion.convs[index].conv.weight[:, :, 0, 0]
        expected = torch.einsum("oc,bchw->bohw", weight, torch.cat([first[index], second[index]], dim=1)).relu()
        torch.testing.assert_close(result, expected / np.sqrt(1 + 1e-5), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"in_channels for 2 levels, got 3 and 2"):
        fusion([*first, first[0]], second)


def test_fusion_may_begin_as_a_difference() -> None:
    torch.manual_seed(0)
    fusion = ConcatFusion([4, 6], difference=True).eval()
    fusion.init_weights()
    first, second = ([torch.randn(2, channels, 5, 7) for channels in (4, 6)] for _ in range(2))
    assert all(result.max() < 1e-6 for result in fusion(first, first))
    shifted = fusion([level + 3 for level in first], [level + 3 for level in second])
    for result, other in zip(fusion(first, second), shifted, strict=True):
        assert result.max() > 0.1
        torch.testing.assert_close(other, result, rtol=1e-4, atol=1e-5)


def test_decoder_goes_from_coarse_to_fine_at_any_sizes() -> None:
    decoder = UNetDecoder([8, 12, 16], dec_num_convs=(2, 1)).eval()
    assert [len(step) for step in decoder.steps] == [2, 1]
    levels = [torch.randn(1, 8, 19, 13), torch.randn(1, 12, 10, 7), torch.randn(1, 16, 3, 4)]
    results = decoder(levels)
    assert [tuple(result.shape) for result in results] == [(1, 16, 3, 4), (1, 12, 10, 7), (1, 8, 19, 13)]
    assert results[0] is levels[2]
    # What the coarsest level says reaches the finest result.
    changed = decoder([levels[0], levels[1], levels[2] + 1])
    assert (changed[2] - results[2]).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r"dec_num_convs must be positive, one for each of 2 steps"):
        UNetDecoder([8, 12, 16], dec_num_convs=(2, 2, 2))


def test_head_takes_the_finest_level_in_whichever_order() -> None:
    settings = {"channels": 6, "num_classes": 2, "norm_cfg": {"type": "BN"}, "dropout_ratio": 0.0}
    loss = [{"type": "mmseg.CrossEntropyLoss"}, {"type": "dynamicvis.SoftDiceLoss"}]
    head = MLPSegHead([3, 4], [0, 1], loss_decode=loss, **settings).eval()
    coarse, fine = torch.randn(1, 3, 4, 5), torch.randn(1, 4, 17, 11)
    assert head([coarse, fine]).shape == (1, 2, 17, 11)
    reverse = MLPSegHead([4, 3], [0, 1], loss_decode=loss, **settings).eval()
    assert reverse([fine, coarse]).shape == (1, 2, 17, 11)


def naive_dice(logits: np.ndarray, labels: np.ndarray, smooth: float) -> float:
    losses = []
    for image, label in zip(logits, labels, strict=True):
        exponents = np.exp(image - image.max(axis=0))
        probabilities = exponents / exponents.sum(axis=0)
        for number in range(len(image)):
            overlap = total = 0.0
            for row, column in np.argwhere(label != 255):
                p, t = probabilities[number, row, column], float(label[row, column] == number)
                overlap += p * t
                total += p**2 + t**2
            losses.append(1 - (2 * overlap + smooth) / (total + smooth))
    return float(np.mean(losses))


@pytest.mark.parametrize("smooth", [1.0, 0.1])
@pytest.mark.parametrize("classes", [2, 3])
def test_dice_loss_is_the_formula(classes: int, smooth: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (3, classes, 6, 5))
    labels = generator.choice([*range(classes), 255], (3, 6, 5))
    result = dice_loss(torch.from_numpy(logits), torch.from_numpy(labels), smooth)
    assert result.item() == pytest.approx(naive_dice(logits, labels, smooth), rel=1e-6)
    weighted = SoftDiceLoss(loss_weight=3.0, smooth=smooth)(torch.from_numpy(logits), torch.from_numpy(labels))
    assert weighted.item() == pytest.approx(3 * result.item())


def test_dice_loss_ends_and_ignored_pixels() -> None:
    labels = torch.tensor([[[0, 0, 1, 255]]])
    right = torch.tensor([[[[20.0, 20.0, -20.0, -20.0]], [[-20.0, -20.0, 20.0, 20.0]]]], requires_grad=True)
    assert dice_loss(right, labels).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-right, labels, smooth=1e-6).item() == pytest.approx(1, abs=1e-4)
    logits = torch.zeros(1, 2, 1, 4, requires_grad=True)
    dice_loss(logits, labels).backward()
    assert logits.grad is not None
    assert (logits.grad[..., 3] == 0).all()
    assert (logits.grad[..., :3] != 0).all()
    assert dice_loss(logits, torch.full_like(labels, 255)).item() == 0
    with pytest.raises(ValueError, match="sampler"):
        SoftDiceLoss()(logits, labels, weight=labels)


def test_weighted_cross_entropy_leaves_ignored_pixels_out() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[0, 0] = 255
    loss = WeightedCrossEntropyLoss([1.0, 5.0, 0.5], loss_weight=2.0)
    weights = torch.tensor([1.0, 5.0, 0.5])
    expected = (
        sum(
            -weights[label] * pixel.log_softmax(0)[label]
            for pixel, label in zip(logits.movedim(1, -1).reshape(-1, 3), labels.flatten(), strict=True)
            if label != 255
        )
        / weights[labels[labels != 255]].sum()
    )
    torch.testing.assert_close(loss(logits, labels), 2 * expected)
    nothing = loss(logits, torch.full_like(labels, 255))
    nothing.backward()
    assert nothing == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
    with pytest.raises(ValueError, match="sampler"):
        loss(logits, labels, weight=labels)


@pytest.mark.parametrize("size", ["base", "large"])
@pytest.mark.parametrize("dataset", ["levir-cd", "whu-cd", "oscd"])
def test_big_models_are_built_as_the_reference_sets_them(size: str, dataset: str) -> None:
    config = Config.fromfile(ROOT / f"configs/change_detection/dynamicvis-{size}_siamese-unet_{dataset}.py")
    with torch.device("meta"):
        model = MODELS.build(config.model)
    crop, batch, lr, epochs = {
        ("base", "levir-cd"): (1024, 4, 5e-4, 800),
        ("large", "levir-cd"): (1024, 2, 2e-4, 800),
        ("base", "whu-cd"): (512, 8, 5e-4, 600),
        ("large", "whu-cd"): (512, 4, 2e-4, 600),
        ("base", "oscd"): (512, 4, 4e-4, 600),
        ("large", "oscd"): (512, 2, 1.6e-4, 600),
    }[size, dataset]
    backbone = {"base": 36_745_536, "large": 91_242_240}[size]
    channels = {"base": 96, "large": 128}[size]
    position = channels * (crop // 4) ** 2 - channels * 128**2
    assert sum(p.numel() for p in model.backbone.parameters()) == backbone + position
    assert sum(p.numel() for p in model.pre_neck.parameters()) == {"base": 2_729_984, "large": 2_852_864}[size]
    assert model.test_cfg.crop_size == (crop, crop)
    assert model.test_cfg.stride == (crop // 2, crop // 2)
    assert config.train_dataloader.batch_size == batch
    assert config.optim_wrapper.optimizer.lr == lr
    assert config.train_cfg.max_epochs == epochs
    assert config.train_dataloader.dataset.split == "train"
    assert config.val_dataloader.dataset.split == "val"
    assert config.test_dataloader.dataset.split == "test"


def test_first_steps_cannot_turn_all_weights_against_rare_changes() -> None:
    config = Config.fromfile(ROOT / "configs/change_detection/dynamicvis-nano_siamese-unet_oscd-4bands.py")
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    unchanged, changed = model.decode_head.conv_seg.weight.detach()[..., 0, 0]
    # AdamW moves a weight by at most the sum of the learning rates.
    warmup = config.param_scheduler[0]
    moved = config.optim_wrapper.optimizer.lr * (warmup["end"] - warmup["begin"]) / 2
    assert ((changed - unchanged) > 2 * moved).float().mean() > 0.25


@torch.no_grad()
def test_flips_of_a_pair_are_averaged(model: torch.nn.Module, tmp_path: Path) -> None:
    config = Config.fromfile(ROOT / "configs/change_detection/dynamicvis-nano_siamese-unet_levir-cd.py")
    pipeline = config.tta_pipeline
    pipeline[1]["transforms"][0][0]["scale"] = (64, 64)
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = ChangeFolder(str(make_levir_cd(tmp_path, {"test": 1})), "test", pipeline=pipeline, test_mode=True)
        averaging = MODELS.build({**config.tta_model, "type": "mmseg.SegTTAModel", "module": model})
        result = averaging.test_step(pseudo_collate([dataset[0]]))[0]
    pair = dataset[0]["inputs"][0][None].float()
    expected = torch.zeros(1, 2, 64, 64)
    for axis in (None, 3, 2):
        meta = [{"ori_shape": (64, 64), "img_shape": (64, 64)}]
        logits = model.inference(pair if axis is None else pair.flip(axis), meta)
        expected += (logits if axis is None else logits.flip(axis)).softmax(dim=1) / 3
    certain = (expected[0, 0] - expected[0, 1]).abs() > 1e-3
    assert certain.float().mean() > 0.5
    predicted = result.pred_sem_seg.data[0]
    assert (predicted == expected[0].argmax(dim=0))[certain].all()


def test_the_model_without_selection_is_built_as_the_reference_sets_it() -> None:
    config = Config.fromfile(ROOT / "configs/change_detection/dynamicvis-base-dense_siamese-unet_levir-cd.py")
    with torch.device("meta"):
        model = MODELS.build(config.model)
    assert sum(p.numel() for p in model.backbone.parameters()) == 36_745_536
    assert {stage.keep_ratio for stage in model.backbone.stages} == {1.0}
    for split, index in (("train", 3), ("val", 1), ("test", 1)):
        assert config[f"{split}_dataloader"].dataset.pipeline[index]["scale"] == (1024, 1024)
    assert config.train_dataloader.dataset.pipeline[4]["crop_size"] == (512, 512)
    assert model.test_cfg.crop_size == (512, 512)
