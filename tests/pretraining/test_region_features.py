"""Region features against mmcv's and mmdet's own modules."""

from __future__ import annotations

import pytest
import torch
from mmcv.cnn.bricks import GeneralizedAttention
from mmdet.models.necks import FPN
from mmdet.models.roi_heads.roi_extractors import GenericRoIExtractor
from torch import Tensor, nn

from dynamicvis.pretraining import FeaturePyramid, RegionExtractor, to_regions
from dynamicvis.pretraining.region_features import PositionAttention
from dynamicvis.registry import MODELS

CHANNELS = 64


def randomize(module: nn.Module) -> None:
    """Make every parameter count, the zero ones (gamma, biases) too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def same_results(ours: nn.Module, theirs: nn.Module, *inputs: Tensor | tuple[Tensor, ...], **options: object) -> None:
    """Outputs, and gradients of parameters and inputs, agree, with the same parameters under the same names."""
    randomize(ours)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for module in (ours, theirs):
        leaves = [
            tuple(part.clone().requires_grad_() for part in item) if isinstance(item, tuple) else item.clone()
            for item in inputs
        ]
        out = module(*leaves)
        levels = list(out) if isinstance(out, tuple) else [out]
        sum((level * level.detach().cos()).sum() for level in levels).backward()
        gradients = [leaf.grad for item in leaves if isinstance(item, tuple) for leaf in item]
        named = {name: parameter.grad for name, parameter in module.named_parameters()}
        results.append(dict(enumerate([*levels, *gradients])) | named)
    assert all(value.abs().max() > 1e-3 for value in results[0].values())
    torch.testing.assert_close(results[0], results[1], **options)


class Single(nn.Module):
    """Takes its map in a tuple, so that its gradient is compared as well."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, maps: tuple[Tensor]) -> Tensor:
        return self.module(maps[0])


@pytest.mark.parametrize("size", [7, 14, 8, 1])
@pytest.mark.parametrize("heads", [6, 4])
def test_attention_is_generalized_attention_0100(size, heads, seeded):
    ours = PositionAttention(CHANNELS, heads).double()
    theirs = GeneralizedAttention(CHANNELS, num_heads=heads, kv_stride=2, attention_type="0100").double()
    maps = torch.randn(3, CHANNELS, size, size, generator=seeded, dtype=torch.float64)
    if size == 1:  # one place to attend to: nothing depends on the query
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(maps), theirs(maps))
        return
    same_results(Single(ours), Single(theirs), (maps,), rtol=1e-9, atol=1e-9)


def test_attention_starts_as_identity(seeded):
    maps = torch.randn(2, CHANNELS, 7, 7, generator=seeded)
    torch.testing.assert_close(PositionAttention(CHANNELS)(maps), maps)


def test_pyramid_is_mmdets(seeded):
    ours, theirs = FeaturePyramid((4, 6, 8, 10), 16), FPN([4, 6, 8, 10], 16, 5)
    sizes = [(13, 9), (7, 5), (4, 3), (2, 2)]
    maps = tuple(torch.randn(2, c, *size, generator=seeded) for c, size in zip((4, 6, 8, 10), sizes, strict=True))
    assert [tuple(level.shape) for level in ours(maps)] == [(2, 16, *size) for size in [*sizes, (1, 1)]]
    same_results(ours, theirs, maps, rtol=1e-4, atol=1e-5)


def maps_and_regions(generator: torch.Generator, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Tensor]:
    maps = tuple(torch.randn(2, CHANNELS, 64 // s, 96 // s, generator=generator, dtype=dtype) for s in (4, 8, 16, 32))
    corner = torch.rand(5, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 3 + 40 * torch.rand(5, 2, generator=generator)], dim=1).to(dtype)
    return maps, to_regions([boxes[:2], boxes[2:]])


@pytest.mark.parametrize("size", [7, 14])
def test_extractor_is_mmdets_generic_extractor(size, seeded):
    ours = RegionExtractor(CHANNELS, size).double()
    theirs = GenericRoIExtractor(
        aggregation="sum",
        roi_layer=dict(type="RoIAlign", output_size=size, sampling_ratio=2),
        out_channels=CHANNELS,
        featmap_strides=[4, 8, 16, 32],
        pre_cfg=dict(type="ConvModule", in_channels=CHANNELS, out_channels=CHANNELS, kernel_size=5, padding=2),
        post_cfg=dict(
            type="GeneralizedAttention", in_channels=CHANNELS, num_heads=6, kv_stride=2, attention_type="0100"
        ),
    ).double()
    maps, regions = maps_and_regions(seeded, torch.float64)
    same_results(ours, theirs, maps, regions, rtol=1e-8, atol=1e-8)


def test_parameters_are_those_of_the_reference():
    extractor, pyramid = RegionExtractor(), FeaturePyramid((96, 192, 384, 768))
    sizes = {name: tuple(value.shape) for name, value in extractor.state_dict().items()}
    assert sizes == {
        "pre_module.conv.weight": (256, 256, 5, 5),
        "pre_module.conv.bias": (256,),
        "post_module.gamma": (1,),
        "post_module.query_conv.weight": (252, 256, 1, 1),
        "post_module.value_conv.weight": (252, 256, 1, 1),
        "post_module.appr_geom_fc_x.weight": (252, 128),
        "post_module.appr_geom_fc_y.weight": (252, 128),
        "post_module.proj_conv.weight": (256, 252, 1, 1),
        "post_module.proj_conv.bias": (256,),
    }
    assert sum(value.numel() for value in pyramid.parameters()) == 2_729_984
    assert sum(value.numel() for value in extractor.pre_module.parameters()) == 1_638_656
    assert sum(value.numel() for value in extractor.post_module.parameters()) == 258_305


def test_no_region_gives_no_feature_and_gradients_of_zero(seeded):
    maps, _ = maps_and_regions(seeded, torch.float32)
    extractor = RegionExtractor(CHANNELS)
    features = extractor(maps, to_regions([torch.zeros(0, 4), torch.zeros(0, 4)]))
    assert features.shape == (0, CHANNELS, 7, 7)
    features.sum().backward()
    assert all(parameter.grad is not None for parameter in extractor.parameters())


def test_bfloat16_does_not_move_the_boxes(seeded):
    extractor = RegionExtractor(CHANNELS)
    maps = tuple(torch.randn(1, CHANNELS, 512 // s, 512 // s, generator=seeded) for s in (4, 8, 16, 32))
    regions = torch.tensor([[0, 401.3, 449.2, 410.8, 461.1]])
    exact = extractor(maps, regions)
    rough = extractor.bfloat16()(tuple(level.bfloat16() for level in maps), regions).float()
    assert (rough - exact).abs().max() < 0.02 * exact.abs().max()


def test_wrong_input_is_named(seeded):
    maps, regions = maps_and_regions(seeded, torch.float32)
    with pytest.raises(ValueError, match=r"strides \(4, 8, 16, 32\) is needed, got 3 maps"):
        RegionExtractor(CHANNELS)(maps[:3], regions)
    with pytest.raises(ValueError, match=r"\(count, 5\).*got \(5, 4\)"):
        RegionExtractor(CHANNELS)(maps, regions[:, 1:])


def test_extractor_of_detectors_takes_pretrained_weights(seeded, tmp_path):
    source = RegionExtractor(CHANNELS)
    randomize(source)
    path = tmp_path / "pretrained.pth"
    torch.save({"state_dict": {f"neck.{key}": value for key, value in source.state_dict().items()}}, path)
    extractor = MODELS.build(
        dict(
            type="dynamicvis.RegionRoIExtractor",
            out_channels=CHANNELS,
            output_size=14,
            init_cfg=dict(type="Pretrained", checkpoint=str(path), prefix="neck."),
        )
    )
    extractor.init_weights()
    maps, regions = maps_and_regions(seeded, torch.float32)
    assert (extractor.num_inputs, tuple(extractor.featmap_strides), extractor.out_channels) == (4, (4, 8, 16, 32), 64)
    assert extractor(maps, regions).shape == (5, CHANNELS, 14, 14)
    source.size = 14
    torch.testing.assert_close(extractor(maps, regions), source(maps, regions))
