"""The load-balancing loss of the routers."""

from __future__ import annotations

import pytest
import torch

from dynamicvis.backbone import RouterBalance, balance_loss, create_backbone


def naive(weights: list[torch.Tensor], indices: list[torch.Tensor]) -> float:
    places = weights[0].shape[1]
    share, score = [0.0] * places, [0.0] * places
    rows = [
        (w, i) for block_w, block_i in zip(weights, indices, strict=True) for w, i in zip(block_w, block_i, strict=True)
    ]
    for w, i in rows:
        for place in range(places):
            share[place] += (place in i.tolist()) / (len(rows) * len(i))
            score[place] += float(w[place]) / len(rows)
    return places * sum(a * b for a, b in zip(share, score, strict=True))


def test_loss_is_the_double_loop(seeded):
    weights = [torch.randn(3, 16, generator=seeded).softmax(1) for _ in range(2)]
    indices = [w.topk(4).indices for w in weights]
    assert float(balance_loss(weights, indices)) == pytest.approx(naive(weights, indices), rel=1e-5)


def test_even_selection_costs_one():
    indices = torch.arange(16).view(4, 4)
    weights = torch.full((4, 16), 1 / 16)
    assert float(balance_loss([weights], [indices])) == pytest.approx(1)
    assert float(balance_loss([weights], [indices[:1].expand(4, 4)])) == pytest.approx(1)
    uneven = torch.zeros(4, 16)
    uneven[:, :4] = 1 / 4
    assert float(balance_loss([uneven], [indices[:1].expand(4, 4)])) == pytest.approx(4)


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
    backbone = create_backbone("test_nano", noise=0.0)
    images = torch.randn(8, 3, 64, 64, generator=seeded)
    with torch.no_grad():
        backbone.pos_embed.copy_(3 * torch.randn(backbone.pos_embed.shape, generator=seeded))
    before = evenness(backbone, images)
    balance = RouterBalance(backbone)
    optimizer = torch.optim.Adam(
        [backbone.pos_embed, *(block.router.weight for block in backbone.stages[0].blocks)], 0.03
    )
    values = []
    for _ in range(40):
        backbone(images)
        loss = balance.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    balance.remove()
    assert values[-1] < values[0]
    assert evenness(backbone, images) > before + 0.05


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
