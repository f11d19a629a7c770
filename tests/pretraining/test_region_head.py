"""The head: losses against a double loop, gradients, embeddings from a file."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from mmpretrain.models.losses import LabelSmoothLoss
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from dynamicvis.backbone import create_backbone
from dynamicvis.pretraining import (
    EmbeddingFileError,
    RegionClassifier,
    RegionHead,
    contrast_losses,
    read_class_vectors,
    to_regions,
)
from dynamicvis.pretraining.embeddings import rotate_into_width

LABELS = torch.tensor([2, 0, 2, 2, 5, 0])  # several regions of a class; classes 1, 3 and 4 are absent


def naive_contrast(features: Tensor, embeddings: Tensor, labels: Tensor, scale: float) -> tuple[float, float]:
    cosine = [[float(f @ e / (f.norm() * e.norm())) for e in embeddings.double()] for f in features.detach().double()]
    likeness = [[math.exp(scale * value) for value in row] for row in cosine]
    first = []
    for row, label in zip(likeness, labels.tolist(), strict=True):
        first.append(-math.log(row[label] / sum(row)))
    second = []
    for category in range(len(embeddings)):
        inside = [row[category] for row, label in zip(likeness, labels.tolist(), strict=True) if label == category]
        if inside:
            second.append(-math.log(sum(inside) / sum(row[category] for row in likeness)))
    return sum(first) / len(first), sum(second) / len(second)


@pytest.mark.parametrize("labels", [LABELS, torch.tensor([3, 3]), torch.arange(6)])
def test_contrast_is_the_double_loop(labels, seeded):
    features = torch.randn(len(labels), 8, generator=seeded, dtype=torch.float64)
    embeddings = torch.randn(6, 8, generator=seeded, dtype=torch.float64)
    scale = torch.tensor(3.0, dtype=torch.float64)
    losses = contrast_losses(features, embeddings, labels, scale)
    assert tuple(map(float, losses)) == pytest.approx(naive_contrast(features, embeddings, labels, 3.0), rel=1e-12)


def test_gradients_of_the_contrast(seeded):
    features = torch.randn(6, 5, generator=seeded, dtype=torch.float64, requires_grad=True)
    embeddings = torch.randn(6, 5, generator=seeded, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f, e, s: sum(contrast_losses(f, e, LABELS, s)), (features, embeddings, scale)
    )


def test_absent_classes_get_no_gradient_from_the_regions_of_others(seeded):
    features = torch.randn(6, 5, generator=seeded)
    embeddings = torch.randn(6, 5, generator=seeded, requires_grad=True)
    contrast_losses(features, embeddings, LABELS, torch.tensor(2.0))[1].backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    assert not embeddings.grad[[1, 3, 4]].any()
    assert embeddings.grad[[0, 2, 5]].abs().sum(1).all()


def test_loss_is_smoothed_cross_entropy_and_half_the_contrast(seeded):
    head = RegionHead(6, 8)
    features = torch.randn(6, 8, generator=seeded)
    losses = head.loss(features, LABELS)
    smooth = LabelSmoothLoss(0.1, num_classes=6, mode="original")
    assert losses["loss_classes"].item() == pytest.approx(float(smooth(head(features), LABELS).detach()))
    first, second = naive_contrast(features, head.category_embedding.weight.detach(), LABELS, 1 / 0.07)
    assert losses["loss_contrast"].item() == pytest.approx(0.5 * (first + second) / 2, rel=1e-4)


def test_head_has_the_parameters_of_the_reference():
    head = RegionHead(63)
    sizes = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    assert sizes == {
        "fc.weight": (63, 256),
        "fc.bias": (63,),
        "category_embedding.weight": (63, 256),
        "logit_scale": (),
    }
    assert sum(value.numel() for value in head.parameters()) == 32_320
    assert head.logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_batch_without_regions_gives_zero_and_gradients():
    model = RegionClassifier(create_backbone("test_nano"), (16, 32, 48, 64), RegionHead(6, 16))
    losses = model(torch.zeros(2, 3, 64, 64), to_regions([torch.zeros(0, 4)] * 2), torch.zeros(0, dtype=torch.int64))
    sum(losses.values()).backward()
    assert [float(value) for value in losses.values()] == [0, 0]
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.neck.parameters())
    assert all(value.grad is not None and not value.grad.any() for value in model.head.parameters())


def test_model_learns_what_stands_in_its_regions(seeded):
    """Two classes of colour in four squares an image: the classes of the regions, not of the image."""
    torch.manual_seed(0)
    model = RegionClassifier(create_backbone("test_nano", noise=0.0), (16, 32, 48, 64), RegionHead(2, 16))
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    images = torch.zeros(2, 3, 64, 64)
    corners = torch.tensor([[0.0, 0], [32, 0], [0, 32], [32, 32]])
    boxes = torch.cat([corners + 2, corners + 30], dim=1)
    for i, label in enumerate(labels.tolist()):
        left, top = corners[i % 4].int().tolist()
        images[i // 4, label, top : top + 32, left : left + 32] = 1
    regions = to_regions([boxes, boxes])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(25):
        loss = sum(model(images, regions, labels).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss))
    assert history[-1] < 0.6 * history[0]
    torch.testing.assert_close(model(images, regions).argmax(1), labels)


def test_bfloat16_autocast_computes_the_losses_in_float32(seeded):
    head = RegionHead(6, 8)
    features = torch.randn(6, 8, generator=seeded).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.loss(features, LABELS)
    exact = head.loss(features.float(), LABELS)
    torch.testing.assert_close(losses, exact)
    assert losses["loss_contrast"].dtype == torch.float32


CLASSES = ("airport", "zoo", "wind_farm")


@pytest.fixture
def vectors(tmp_path, seeded):
    content = {name: torch.randn(12, generator=seeded) for name in (*CLASSES, "not needed")}
    path = tmp_path / "text.safetensors"
    save_file(content, path)
    return path, content


def test_embeddings_start_from_a_file(vectors):
    path, content = vectors
    head = RegionHead(3, 12, embeddings=path, classes=CLASSES)
    for row, name in zip(head.category_embedding.weight.detach(), CLASSES, strict=True):
        torch.testing.assert_close(F.normalize(row, dim=0), F.normalize(content[name], dim=0))
        assert float(row.norm()) == pytest.approx(12**0.5)


def test_vectors_of_another_width_keep_their_angles(vectors):
    path, _ = vectors
    exact = read_class_vectors(path, CLASSES)
    for channels in (8, 16):
        head = RegionHead(3, channels, embeddings=path, classes=CLASSES, fit_width=True)
        fitted = F.normalize(head.category_embedding.weight.detach())
        torch.testing.assert_close(fitted @ fitted.T, exact @ exact.T, atol=1e-5, rtol=0)
    with pytest.raises(EmbeddingFileError, match=r"have 12 values and the features 16 channels; set fit_width=True"):
        RegionHead(3, 16, embeddings=path, classes=CLASSES)
    with pytest.raises(ValueError, match="span 3 dimensions, which do not fit into 2"):
        rotate_into_width(exact, 2)


def test_bad_vector_files_are_named(vectors, tmp_path):
    path, content = vectors
    with pytest.raises(EmbeddingFileError, match=r"text\.safetensors lack 1 of 2 classes, such as 'harbour'"):
        read_class_vectors(path, ["zoo", "harbour"])
    with pytest.raises(EmbeddingFileError, match=r"absent\.safetensors do not exist"):
        read_class_vectors(tmp_path / "absent.safetensors", CLASSES)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:100])
    with pytest.raises(EmbeddingFileError, match=r"cut\.safetensors are truncated"):
        read_class_vectors(tmp_path / "cut.safetensors", CLASSES)
    for bad, message in (
        (torch.zeros(12), "'zoo' is zero"),
        (torch.full((12,), torch.nan), "'zoo' is zero or not finite"),
        (torch.ones(11), r"'zoo' has shape \(11,\) and 'airport' \(12,\)"),
        (torch.ones(2, 6), r"'zoo' has shape \(2, 6\)"),
    ):
        save_file(content | {"zoo": bad}, tmp_path / "bad.safetensors")
        with pytest.raises(EmbeddingFileError, match=message):
            read_class_vectors(tmp_path / "bad.safetensors", CLASSES)
    with pytest.raises(ValueError, match="names of the 3 classes"):
        RegionHead(3, 12, embeddings=path)


def test_pretraining_needs_no_openmmlab():
    code = (
        "import sys, dynamicvis.pretraining, dynamicvis.data.shards\n"
        "assert not {name.split('.')[0] for name in sys.modules} & {'mmengine', 'mmcv', 'mmdet', 'webdataset'}"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
