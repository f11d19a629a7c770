"""What frozen features know: nearest neighbours and a linear classifier on top of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def knn_predict(
    features: Tensor, labels: Tensor, queries: Tensor, num_classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Classes of queries by a vote of their ``k`` nearest training features.

    A neighbour of cosine similarity s has weight exp(s / temperature).

    Args:
        features: (N, D) training features, N at least k.
        labels: (N,) their classes.
        queries: (Q, D).
        num_classes: number of classes.
        k: neighbours that vote.
        temperature: positive; the smaller, the more the nearest counts.

    Returns:
        (Q,) predicted classes.

    Raises:
        ValueError: ``k`` is not between 1 and N.

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
    """
    if not 1 <= k <= len(features):
        raise ValueError(f"k must be from 1 to {len(features)}, the number of training samples, got {k}")
    keys = F.normalize(features, dim=1)
    predictions = []
    for chunk in F.normalize(queries, dim=1).split(1024):
        similarity, neighbours = (chunk @ keys.T).topk(k, dim=1)
        # Relative to the nearest neighbour, so that no weight overflows.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = torch.zeros(len(chunk), num_classes, dtype=weights.dtype, device=weights.device)
        predictions.append(votes.scatter_add_(1, labels[neighbours], weights).argmax(dim=1))
    return torch.cat(predictions)


def linear_probe(
    features: Tensor,
    labels: Tensor,
    queries: Tensor,
    num_classes: int,
    weight_decay: float = 1e-3,
    iterations: int = 200,
) -> Tensor:
    """Classes of queries by softmax regression on standardised training features.

    The loss, mean cross-entropy plus ``weight_decay / 2`` times the squared weights, is convex, so that the result
    depends neither on a seed nor on a learning rate; L-BFGS minimises it, in float64.

    Args:
        features: (N, D) training features.
        labels: (N,) their classes.
        queries: (Q, D).
        num_classes: number of classes.
        weight_decay: positive.
        iterations: most steps of L-BFGS.

    Returns:
        (Q,) predicted classes.
    """
    features = features.double()
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0).clamp(min=1e-12)
    inputs = (features - mean) / deviation
    weight = torch.zeros(num_classes, inputs.shape[1], dtype=inputs.dtype, device=inputs.device, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=inputs.dtype, device=inputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(inputs, weight, bias), labels)
        loss = loss + weight_decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return F.linear((queries.double() - mean) / deviation, weight, bias).argmax(dim=1)
