from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dynamicvis.retrieval import knn_predict, linear_probe


def test_neighbours_vote_by_similarity(seeded):
    features, queries = torch.randn(40, 6, generator=seeded), torch.randn(15, 6, generator=seeded)
    labels = torch.randint(4, (40,), generator=seeded)
    predicted = knn_predict(features, labels, queries, num_classes=4, k=7, temperature=0.2)
    for query, found in zip(queries, predicted.tolist(), strict=True):
        similarities = [(float(F.cosine_similarity(query, feature, dim=0)), n) for n, feature in enumerate(features)]
        votes = [0.0] * 4
        for similarity, n in sorted(similarities, reverse=True)[:7]:
            votes[int(labels[n])] += math.exp(similarity / 0.2)
        assert found == votes.index(max(votes))


def test_more_neighbours_than_samples_are_refused():
    with pytest.raises(ValueError, match="k must be from 1 to 3, the number of training samples, got 20"):
        knn_predict(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), torch.zeros(1, 2), num_classes=2)


def test_linear_probe_separates_what_is_linear(seeded):
    centres = torch.randn(5, 12, generator=seeded) * 3
    labels = torch.arange(5).repeat(20)
    # Scales and offsets of the features must not matter.
    scales, offsets = torch.logspace(-3, 3, 12), torch.linspace(-100, 100, 12)
    features, queries = (
        (centres[labels] + torch.randn(100, 12, generator=seeded)) * scales + offsets for _ in range(2)
    )
    predicted = linear_probe(features, labels, queries, num_classes=5)
    assert (predicted == labels).double().mean() > 0.95
    shuffled = labels[torch.randperm(100, generator=seeded)]
    assert (linear_probe(features, shuffled, queries, num_classes=5) == labels).double().mean() < 0.5


def test_linear_probe_reaches_the_minimum_of_its_loss(seeded):
    """Its predictions are those of plain gradient descent run to the end."""
    features, labels = torch.randn(30, 3, generator=seeded).double(), torch.randint(3, (30,), generator=seeded)
    queries = torch.randn(200, 3, generator=seeded).double()
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
    weight, bias = torch.zeros(3, 3).double().requires_grad_(), torch.zeros(3).double().requires_grad_()
    for _ in range(3000):
        loss = F.cross_entropy(F.linear((features - mean) / deviation, weight, bias), labels)
        gradients = torch.autograd.grad(loss + 0.05 / 2 * weight.square().sum(), (weight, bias))
        with torch.no_grad():
            for parameter, gradient in zip((weight, bias), gradients, strict=True):
                parameter -= gradient
    expected = F.linear((queries - mean) / deviation, weight, bias).argmax(dim=1)
    predicted = linear_probe(features, labels, queries, num_classes=3, weight_decay=0.05)
    assert (predicted == expected).double().mean() > 0.99


def test_linear_probe_survives_a_dead_feature():
    features = torch.tensor([[0.0, 5.0], [1.0, 5.0], [0.1, 5.0], [0.9, 5.0]])
    labels = torch.tensor([0, 1, 0, 1])
    assert linear_probe(features, labels, features, num_classes=2).tolist() == [0, 1, 0, 1]
