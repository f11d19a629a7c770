"""Stochastic depth."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from dynamicvis import create_backbone
from dynamicvis.backbone.block import SelectiveBlock
from dynamicvis.backbone.workspace import Workspace


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("keep_ratio", [0.5, None])
def test_an_update_is_left_out_by_image_and_right_on_average(keep_ratio: float | None, grad: bool) -> None:
    """With gradients and in place, an image's update is there, enlarged, or not; the mean is that of evaluation."""
    torch.manual_seed(0)
    block = SelectiveBlock(16, keep_ratio, True, "softmax", "score", drop_path=0.25).double()
    tokens = torch.randn(1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = block.eval()(tokens, (4, 4))[0]
        with torch.enable_grad() if grad else nullcontext():
            many = tokens.repeat(2000, 1, 1)
            results = block.train()(many, (4, 4), 0.0, None if grad else Workspace())[0]
    first = results[0]
    alike = (results - first).abs().amax(dim=(1, 2)) < 1e-9
    other = results[~alike][0]
    torch.testing.assert_close(results[~alike], other.expand_as(results[~alike]))
    nearer_whole = (first - expected).norm() < (other - expected).norm()
    kept, dropped = (first, other) if nearer_whole else (other, first)
    torch.testing.assert_close((0.75 * kept + 0.25 * dropped)[None], expected)
    assert abs((alike == nearer_whole).double().mean() - 0.75) < 0.04


def test_probabilities_rise_with_depth_and_evaluation_has_none() -> None:
    torch.manual_seed(0)
    plain = create_backbone("test_nano").eval()
    dropping = create_backbone("test_nano", drop_path_rate=0.4).eval()
    dropping.load_state_dict(plain.state_dict())
    rates = [block.drop_path for stage in dropping.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    images = torch.randn(4, 3, 64, 64)
    for expected, actual, again in zip(plain(images), dropping(images), dropping(images), strict=True):
        assert torch.equal(expected, actual)
        assert torch.equal(expected, again)
    plain.train().noise = dropping.train().noise = 0.0
    assert torch.equal(plain(images)[0], dropping(images)[0])  # the first block always mixes
    assert not torch.equal(plain(images)[3], dropping(images)[3])


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"drop_path_rate must lie in \[0, 1\)"):
        create_backbone("test_nano", drop_path_rate=rate)


def test_checkpointed_blocks_drop_the_same_images_twice() -> None:
    images = torch.randn(4, 3, 64, 64)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        backbone = create_backbone("test_nano", drop_path_rate=0.5, gradient_checkpointing=checkpointed).train()
        torch.manual_seed(1)
        sum(maps.square().mean() for maps in backbone(images)).backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    for expected, actual in zip(*gradients, strict=True):
        if expected is None:
            assert actual is None
        else:
            torch.testing.assert_close(actual, expected)
