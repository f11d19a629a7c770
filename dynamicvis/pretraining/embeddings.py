"""Initial category embeddings from the features of a text encoder.

The file is a ``.safetensors`` with one vector a class, under the name of the class: ``{"airport": (width,), ...}``, of
any floating-point type and length. It may hold more classes than are needed. To write one::

    vectors = {name: encode_text(f"a satellite image of {name}") for name in classes}
    safetensors.torch.save_file(vectors, "text.safetensors")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dynamicvis.errors import DynamicVisError


class EmbeddingFileError(DynamicVisError):
    """A file of class vectors that cannot be used; the message names the file, the class and the way out."""


def read_class_vectors(path: str | Path, classes: Sequence[str]) -> Tensor:
    """Vectors of the classes, in their order, of unit length.

    Args:
        path: see above.
        classes: names of the classes, as the data set spells them.

    Returns:
        (classes, width) float32.

    Raises:
        EmbeddingFileError: the file is missing or unreadable, lacks a class, or holds vectors that differ in width, are
            no vectors, zero or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise EmbeddingFileError(f"class vectors {path} do not exist; check the path")
    try:
        content = load_file(path)
    except SafetensorError as error:
        raise EmbeddingFileError(f"class vectors {path} are truncated or no safetensors file ({error})") from error
    lacking = [name for name in classes if name not in content]
    if lacking:
        raise EmbeddingFileError(
            f"class vectors {path} lack {len(lacking)} of {len(classes)} classes, such as {lacking[0]!r}; add a vector "
            f"of that name (the file has {', '.join(repr(name) for name in list(content)[:3])}, ...)"
        )
    width = content[classes[0]].shape
    for name in classes:
        vector = content[name].float()
        if vector.ndim != 1 or vector.shape != width:
            raise EmbeddingFileError(
                f"class vectors {path}: {name!r} has shape {tuple(vector.shape)} and {classes[0]!r} {tuple(width)}; "
                "every class needs one vector of the same length"
            )
        if not torch.isfinite(vector).all() or not vector.any():
            raise EmbeddingFileError(f"class vectors {path}: {name!r} is zero or not finite, so it has no direction")
    return F.normalize(torch.stack([content[name].float() for name in classes]))


def rotate_into_width(vectors: Tensor, width: int) -> Tensor:
    """Vectors of another width with the same angles between them.

    As many vectors as classes span no more dimensions than that: in a basis of their span the coordinates keep every
    inner product exactly. They are then turned by a fixed random rotation, so that they use all of the width.

    Args:
        vectors: (classes, old width).
        width: new one.

    Returns:
        (classes, width).

    Raises:
        ValueError: the vectors span more than ``width`` dimensions.
    """
    left, sizes, _ = torch.linalg.svd(vectors.double(), full_matrices=False)
    rank = int((sizes > 1e-6 * sizes[0]).sum())
    if rank > width:
        raise ValueError(f"{len(vectors)} class vectors span {rank} dimensions, which do not fit into {width} channels")
    coordinates = F.pad(left[:, :rank] * sizes[:rank], (0, width - rank))
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return (coordinates @ rotation).to(vectors.dtype)
