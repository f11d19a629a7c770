"""The load-balancing loss of the routers."""

from __future__ import annotations

import math

import pytest
import torch

from dynamicvis.backbone import RouterBalance, balance_loss, create_backbone


def naive(logits: list[torch.Tensor], kept: int) -> float:
    rows = [row.tolist() for block in logits for row in block]
    load = [0.0] * len(rows[0])
    for row in rows:
        mean = sum(row) / len(row)
        width = math.sqrt(sum((value - mean) ** 2 for value in row) / (len(row) - 1))
        threshold = sorted(row)[-kept]
        for place, value in enumerate(row):
            load[place] += 1 / (1 + math.exp(-(value - threshold) / width)) / len(rows)
    mean = sum(load) / len(load)
    return sum((value - mean) ** 2 for value in load) / len(load) / mean**2


def test_loss_is_the_double_loop(seeded):
    logits = [torch.randn(3, 16, generator=seeded) for _ in range(2)]
    assert float(balance_loss(logits, 1 / 4)) == pytest.approx(naive(logits, 4), rel=1e-5)


def test_even_selection_costs_nothing_and_scale_does_not_matter(seeded):
    row = torch.randn(16, generator=seeded)
    everywhere = torch.stack([row.roll(step) for step in range(16)])
    assert float(balance_loss([everywhere], 1 / 4)) == pytest.approx(0, abs=1e-6)
    same = row.expand(4, 16)
    assert float(balance_loss([same], 1 / 4)) > 0.1
    assert float(balance_loss([100 * same], 1 / 4)) == pytest.approx(float(balance_loss([same], 1 / 4)), rel=1e-5)
    assert balance_loss([torch.zeros(2, 16)], 1 / 4).isfinite()


def evenness(backbone: torch.nn.Module, images: torch.Tensor) -> float:
    """Entropy of the places selected by the first stage over all images, 1 when they are selected equally often."""
    backbone.record_selection = True
    with torch.no_grad():
        backbone(images)
    selection = next(item for item in backbone.last_selection if item.stage == 0)
    backbone.record_selection = False
    counts = torch.bincount(selection.indices.flatten(), minlength=selection.grid[0] * selection.grid[1]).float()
    share = counts / counts.sum()
    return float(-(share * share.clamp(min=1e-12).log()).sum() / torch.tensor(float(len(share))).log())


def test_training_with_it_evens_the_selection(seeded):
    """Position embeddings lead all routers to the same places; the loss leads them away."""
    torch.manual_seed(0)
    backbone = create_backbone("test_nano", noise=0.0, keep_ratios=(1 / 8, None, None, None))
    images = torch.randn(8, 3, 64, 64, generator=seeded)
    with torch.no_grad():
        backbone.pos_embed.copy_(3 * torch.randn(backbone.pos_embed.shape, generator=seeded))
    before = evenness(backbone, images)
    balance = RouterBalance(backbone)
    optimizer = torch.optim.Adam(
        [backbone.pos_embed, *(block.router.weight for block in backbone.stages[0].blocks)], 0.1
    )
    values = []
    for _ in range(60):
        backbone(images)
        loss = balance.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    balance.remove()
    assert values[-1] < 0.2 * values[0]
    assert evenness(backbone, images) > before + 0.15


def test_blocks_that_select_nothing_are_left_out():
    backbone = create_backbone("test_nano", keep_ratios=(1 / 4, None, 1.0, 1 / 2))
    balance = RouterBalance(backbone)
    assert [len(blocks) for blocks in balance._stages] == [1, 1]
    backbone(torch.zeros(1, 3, 64, 64))
    assert balance.loss().isfinite()
    with pytest.raises(ValueError, match="no block of the backbone selects"):
        RouterBalance(create_backbone("test_nano", keep_ratios=(None, None, 1.0, 1.0)))


def test_gradient_reaches_the_routers_and_nothing_is_kept_after_removal(seeded):
    backbone = create_backbone("test_nano")
    balance = RouterBalance(backbone)
    backbone(torch.randn(2, 3, 64, 64, generator=seeded))
    balance.loss().backward()
    gradients = [block.router.weight.grad for stage in backbone.stages[:3] for block in stage.blocks]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    balance.remove()
    backbone.zero_grad()
    backbone(torch.randn(2, 3, 64, 64, generator=seeded))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())
