"""Meta-embedding multi-instance learning: classes of regions, and their contrast against embeddings of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynamicvis.pretraining.distributed import gather_regions
from dynamicvis.pretraining.embeddings import EmbeddingFileError, read_class_vectors, rotate_into_width


def contrast_losses(features: Tensor, embeddings: Tensor, labels: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-instance contrast between regions and classes, both directions.

    Each is the mean of minus the log of the probability of the positives, summed. From the regions: softmax over the
    classes, and the region's class is the positive. From the classes: softmax over the regions, and all regions of the
    class are positives; classes without a region are left out.

    Args:
        features: (regions, channels), any length.
        embeddings: (classes, channels), any length.
        labels: (regions,) from 0 to classes - 1; at least one region.
        scale: factor on the cosines.

    Returns:
        Loss of the regions, and loss of the classes, scalars.

    Source: arXiv 2503.16426, section 3.4.
    """
    logits = scale * F.normalize(features) @ F.normalize(embeddings).T
    of_regions = F.cross_entropy(logits, labels)
    positive = F.one_hot(labels, len(embeddings)).bool()
    present = positive.any(dim=0)
    # The logsumexp of an absent class is minus infinity, and its gradient not a number: such classes leave before it.
    logits, positive = logits[:, present], positive[:, present]
    of_classes = logits.logsumexp(dim=0) - logits.masked_fill(~positive, -math.inf).logsumexp(dim=0)
    return of_regions, of_classes.mean()


class RegionHead(nn.Module):
    """Classifier of region features, with learnable category embeddings for pretraining.

    In distributed runs the losses are those of the regions of all processes together, see `gather_regions`.

    Args:
        num_classes: number of classes.
        channels: of the features.
        label_smoothing: of the cross-entropy.
        contrast_weight: of the mean of the two `contrast_losses`; 0 for plain classification.
        embeddings: file with a vector a class that the embeddings start from, see `dynamicvis.pretraining.embeddings`;
            None for random ones.
        classes: names of the classes, in the order of the labels; needed with ``embeddings``.
        fit_width: accept vectors of another width than ``channels``, and rotate them into it, see `rotate_into_width`.

    Raises:
        ValueError: ``embeddings`` without ``classes``, or a number of classes other than ``num_classes``.
        EmbeddingFileError: the file cannot be used, or has another width and ``fit_width`` is not set.

    Source: arXiv 2503.16426, section 3.4.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        label_smoothing: float = 0.1,
        contrast_weight: float = 0.5,
        embeddings: str | Path | None = None,
        classes: Sequence[str] | None = None,
        fit_width: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.contrast_weight = contrast_weight
        self.fc = nn.Linear(channels, num_classes)
        self.category_embedding = nn.Embedding(num_classes, channels)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        if embeddings is not None:
            if classes is None or len(classes) != num_classes:
                raise ValueError(f"embeddings need the names of the {num_classes} classes, got {classes}")
            vectors = read_class_vectors(embeddings, classes)
            if vectors.shape[1] != channels:
                if not fit_width:
                    raise EmbeddingFileError(
                        f"class vectors {embeddings} have {vectors.shape[1]} values and the features {channels} "
                        "channels; set fit_width=True to rotate them into that width, which keeps their angles"
                    )
                vectors = rotate_into_width(vectors, channels)
            # As long as random ones are, so that the optimizer turns both at the same pace.
            with torch.no_grad():
                self.category_embedding.weight.copy_(vectors * math.sqrt(channels))

    def forward(self, features: Tensor) -> Tensor:
        """(regions, channels) -> class logits (regions, num_classes)."""
        return self.fc(features)

    def loss(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of the regions of all processes.

        Args:
            features: (regions, channels); there may be none.
            labels: (regions,) integers.

        Returns:
            ``loss_classes``, and ``loss_contrast`` already weighted; both 0 when no process has a region.
        """
        with torch.autocast(features.device.type, enabled=False):
            features, labels = gather_regions(features.float(), labels)
            logits, embeddings, scale = self(features), self.category_embedding.weight, self.logit_scale.exp()
            if not len(labels):
                nothing = 0.0 * (logits.sum() + embeddings.sum() + scale)
                return {"loss_classes": nothing, "loss_contrast": nothing}
            of_classes = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            first, second = contrast_losses(features, embeddings, labels, scale)
            return {"loss_classes": of_classes, "loss_contrast": self.contrast_weight * (first + second) / 2}
