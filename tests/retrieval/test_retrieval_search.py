from __future__ import annotations

import pytest
import torch
from torchmetrics.retrieval import RetrievalMAP, RetrievalPrecision

from dynamicvis import create_backbone
from dynamicvis.retrieval import (
    RetrievalIndex,
    binary_codes,
    embed,
    evaluate_retrieval,
    index,
    mean_average_precision,
    mean_precision,
    relevance,
)


def test_embedding_is_the_mean_of_the_last_map(seeded):
    backbone = create_backbone("test_nano").eval()
    images = torch.randn(2, 3, 64, 96, generator=seeded)
    embeddings = embed(backbone, images)
    last = backbone(images)[-1]
    expected = torch.stack([last[:, :, y, x] for y in range(2) for x in range(3)]).mean(dim=0)
    torch.testing.assert_close(embeddings, expected)
    assert embeddings.shape == (2, 64)
    assert not embeddings.requires_grad


def test_codes_are_signs_of_group_means():
    embeddings = torch.tensor([[3.0, -1.0, -2.0, 1.0], [-1.0, -1.0, 0.5, 0.0]])
    assert binary_codes(embeddings).tolist() == [[True, False, False, True], [False, False, True, False]]
    assert binary_codes(embeddings, 2).tolist() == [[True, False], [False, True]]


def test_codes_of_a_length_that_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="6 dimensions give codes of 1, 2, 3, 6 bits, not of 4"):
        binary_codes(torch.zeros(1, 6), 4)


@pytest.mark.parametrize("kind", ["float", "bits"])
@pytest.mark.parametrize("chunk", [1, 1 << 25])
def test_search_finds_what_a_full_sort_finds(seeded, monkeypatch, kind, chunk):
    monkeypatch.setattr(index, "_CHUNK", chunk)
    # Whole numbers, so that there are ties: they go to the entry added first.
    database, queries = (torch.randint(-2, 3, (n, 8), generator=seeded).float() for n in (50, 7))
    if kind == "bits":
        database, queries = database > 0, queries > 0
    distances, positions = RetrievalIndex(database).search(queries, k=12)
    for query, found, order in zip(queries, distances, positions, strict=True):
        every = [(float((query.float() - entry.float()).abs().sum()), n) for n, entry in enumerate(database)]
        assert [(float(value), int(n)) for value, n in zip(found, order, strict=True)] == sorted(every)[:12]


def test_search_names_what_does_not_fit():
    database = RetrievalIndex(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="k must be from 1 to 5"):
        database.search(torch.zeros(1, 4), k=6)
    with pytest.raises(ValueError, match=r"queries must be \(Q, 4\) of type torch.float32"):
        database.search(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"queries must be .* got \(1, 4\) of type torch.bool"):
        database.search(torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got a tensor of shape \(0, 4\)"):
        RetrievalIndex(torch.zeros(0, 4))


def test_relevant_is_any_shared_label():
    labels = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    wanted = torch.tensor([[1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    positions = torch.tensor([[2, 0, 1], [0, 1, 2]])
    assert relevance(wanted, labels, positions).tolist() == [[False, True, True], [False, True, True]]


def test_figures_are_those_of_torchmetrics(seeded):
    queries, database = torch.randn(30, 64, generator=seeded), torch.randn(100, 64, generator=seeded)
    query_labels, labels = (torch.rand(n, 5, generator=seeded) > 0.8 for n in (30, 100))
    figures = evaluate_retrieval(queries, query_labels, database, labels, k=20, codes=("float", "binary", 32))
    assert list(figures) == [f"{code}/{name}@20" for code in ("float", "binary", "32bit") for name in ("mAP", "P")]
    assert 0 < figures["float/P@20"] < figures["float/mAP@20"] < 1

    distances = torch.cdist(queries, database, p=1)
    relevant = (query_labels.float() @ labels.float().T) > 0
    # torchmetrics takes scores above zero only.
    scores = (distances.max() + 1 - distances).flatten()
    indexes = torch.arange(30).repeat_interleave(100)
    for name, metric in (
        ("mAP", RetrievalMAP(empty_target_action="neg", top_k=20)),
        ("P", RetrievalPrecision(empty_target_action="neg", top_k=20)),
    ):
        assert figures[f"float/{name}@20"] == pytest.approx(
            float(metric(scores, relevant.flatten(), indexes)), abs=1e-6
        )


def test_average_precision_by_hand():
    relevant = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    assert mean_average_precision(relevant) == pytest.approx(((1 + 2 / 3) / 2 + 0 + 1 / 2) / 3)
    assert mean_precision(relevant) == pytest.approx(3 / 12)


def test_perfect_embeddings_score_one():
    labels = torch.eye(4, dtype=torch.bool).repeat(30, 1)
    embeddings = labels.float().repeat(1, 16) - 0.5
    figures = evaluate_retrieval(embeddings[:8], labels[:8], embeddings, labels)
    assert set(figures) == {f"{code}/{name}@20" for code in ("float", "binary", "64bit") for name in ("mAP", "P")}
    assert set(figures.values()) == {1.0}


def test_unknown_code_and_no_queries_are_refused():
    embeddings, labels = torch.zeros(30, 4), torch.ones(30, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="'float', 'binary' or a number of bits, got 'lsh'"):
        evaluate_retrieval(embeddings, labels, embeddings, labels, codes=("lsh",))
    with pytest.raises(ValueError, match="at least one query"):
        evaluate_retrieval(embeddings[:0], labels[:0], embeddings, labels)
