"""Losses of decode heads: Dice over classes, and cross-entropy with a weight a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamicvis.registry import MODELS


def dice_loss(logits: Tensor, labels: Tensor, smooth: float = 1.0, ignore_index: int = 255) -> Tensor:
    """One minus the soft Dice coefficient, mean over images and classes.

    Of an image and a class, with p the softmax of the logits and t 1 where the label is the class:
    ``1 - (2 sum(p t) + smooth) / (sum(p^2) + sum(t^2) + smooth)``, the sums over all pixels that are not ignored
    (Milletari et al. 2016, equation 3, with a smoothing term).

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W), integers from 0 to K - 1, or ``ignore_index``.
        smooth: added to numerator and denominator, so that an absent class costs nothing where none is predicted.
        ignore_index: label of pixels that take no part.

    Returns:
        Scalar in 0..1.
    """
    classes = logits.shape[1]
    valid = (labels != ignore_index).unsqueeze(1)
    targets = F.one_hot(labels.where(valid[:, 0], 0).long(), classes).movedim(-1, 1) * valid
    probabilities = logits.softmax(dim=1) * valid
    overlap = (probabilities * targets).sum(dim=(2, 3))
    total = (probabilities.square() + targets).sum(dim=(2, 3))
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


@MODELS.register_module()
class SoftDiceLoss(nn.Module):
    """`dice_loss` as a loss of mmseg's decode heads.

    mmseg's own ``DiceLoss`` takes the sigmoid of each logit by default and counts ignored pixels as predictions.

    Args:
        loss_weight: factor.
        smooth: as for `dice_loss`.
        loss_name: name in the log; begins with ``loss_`` so that it is part of the sum.
    """

    def __init__(self, loss_weight: float = 1.0, smooth: float = 1.0, loss_name: str = "loss_dice") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.smooth = smooth
        self.loss_name = loss_name

    def forward(self, logits: Tensor, labels: Tensor, weight: None = None, ignore_index: int = 255) -> Tensor:
        """Weighted loss of logits (B, K, H, W) and labels (B, H, W); ``weight`` of a pixel sampler is not supported.

        Raises:
            ValueError: ``weight`` is given.
        """
        if weight is not None:
            raise ValueError("SoftDiceLoss has no weights of pixels; remove the decode head's `sampler`")
        return self.loss_weight * dice_loss(logits, labels, self.smooth, ignore_index)


@MODELS.register_module()
class WeightedCrossEntropyLoss(nn.Module):
    """Cross-entropy with a weight a class, as a loss of mmseg's decode heads: PyTorch's, a weighted mean over pixels.

    mmseg's own fails where weights of classes meet ``avg_non_ignore``.

    Args:
        class_weight: weight of every class.
        loss_weight: factor.
        loss_name: name in the log; begins with ``loss_`` so that it is part of the sum.
    """

    def __init__(self, class_weight: Sequence[float], loss_weight: float = 1.0, loss_name: str = "loss_ce") -> None:
        super().__init__()
        self.register_buffer("class_weight", torch.tensor(class_weight, dtype=torch.float32), persistent=False)
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(self, logits: Tensor, labels: Tensor, weight: None = None, ignore_index: int = 255) -> Tensor:
        """Weighted loss of logits (B, K, H, W) and labels (B, H, W); 0 where every pixel is ignored.

        Raises:
            ValueError: ``weight`` of a pixel sampler is given, which is not supported.
        """
        if weight is not None:
            raise ValueError("WeightedCrossEntropyLoss has no weights of pixels; remove the decode head's `sampler`")
        weights = self.get_buffer("class_weight").to(logits.dtype)
        total = F.cross_entropy(logits, labels, weights, ignore_index=ignore_index, reduction="sum")
        counted = torch.where(labels == ignore_index, 0, weights[labels.where(labels != ignore_index, 0)])
        return self.loss_weight * total / counted.sum().clamp(min=torch.finfo(logits.dtype).tiny)
