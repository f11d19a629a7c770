"""Models for scenes, from single files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.startup import quick_imports
from dynamicvis.model_card import ModelCard, find_model, read_card

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dynamicvis.tile_model import TileModel, TileOutputs

_OPENMMLAB = {"mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "torchvision"}


def load_model(
    name_or_path: str | Path, device: str = "cpu", *, selection: bool = False, embedding: bool = False
) -> TileModel:
    """Load a shipped model by its name, or a model file, of any task.

    Args:
        name_or_path: a name listed by ``dynamicvis models``, or a file.
        device: where it runs, such as ``"cpu"``.
        selection: also give the map ``"selection"``: 1 where a stage of the backbone selected the token, else 0; of a
            model for change, where it did so in either of the dates.
        embedding: instead of its own results give ``embedding``, the mean of the backbone's last map. The model's card
            is then one of task ``"embedding"``, and a model for change takes the bands of one date.

    Returns:
        The model, with its ``card``. It is called with windows (B, bands, height, width) of raw values as a raster has
        them, bands in the order of ``card.bands``, and gives a `dynamicvis.tile_model.TileOutputs`: ``objects`` with
        boxes, scores, labels and masks, ``probabilities`` of classes, or an ``embedding``.

    Raises:
        ModelFileError: the file is missing, damaged or holds another architecture, or ``selection`` is asked of a
            model whose backbone selects no tokens.
        GeoError: the device is not there, or OpenMMLab is not installed.
    """
    path = find_model(str(name_or_path))
    usable_device(device)
    with openmmlab_for(path), quick_imports(read_card(path)):
        from dynamicvis.mm.inference import load_tile_model

        return load_tile_model(path, device, selection=selection, embedding=embedding)


class LazyModel:
    """A model file that is loaded when it is first called, so that all else is checked before.

    Args:
        name_or_path: a name listed by ``dynamicvis models``, or a file.
        device: where it runs.
        selection, embedding: as for `dynamicvis.geo.load_model`.

    Attributes:
        card: of the model, or of the embedding that is made of it.
        digest: SHA-256 of the file.
        device: where it runs.

    Raises:
        ModelFileError: the file is missing, damaged, or has no card.
    """

    def __init__(
        self, name_or_path: str | Path, device: str = "cpu", *, selection: bool = False, embedding: bool = False
    ) -> None:
        self._path = find_model(str(name_or_path))
        self._options = {"selection": selection, "embedding": embedding}
        self._model: TileModel | None = None
        card = read_card(self._path)
        self.card: ModelCard = replace(card, task="embedding") if embedding else card
        self.device = device
        with self._path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()

    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        """Results for a batch of tiles."""
        if self._model is None:
            self._model = load_model(self._path, self.device, **self._options)
        return self._model(images)


@contextmanager
def openmmlab_for(model: str | Path) -> Iterator[None]:
    """Say what to install where a model needs a package of OpenMMLab that is missing.

    Raises:
        GeoError: instead of the `ModuleNotFoundError` of such a package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _OPENMMLAB:
            raise
        raise GeoError(
            f"model '{Path(model).stem}' needs OpenMMLab, and {missing} is not installed: "
            '`pip install "dynamicvis[mm]"`'
        ) from error


def usable_device(device: str) -> str:
    """The device itself, where models can run.

    Raises:
        GeoError: torch has no such device here, or the kernels have no backend for it.
    """
    import torch
    from dynamicvis_kernels import choose_backend

    try:
        # The one test that holds for every kind of device: something can be put there.
        choose_backend(torch.empty(1, device=device).device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise GeoError(f"device '{device}' is not available here; give --device cpu, or none at all") from error
    except ValueError as error:
        raise GeoError(f"device '{device}' cannot run the model: {error}") from error
    return device
