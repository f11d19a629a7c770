"""A model of each task for the command line; as a program, the command line itself with these models."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from geo_scenes import (
    FakeModel,
    change_model,
    classification_model,
    detection_model,
    embedding_model,
    mask_model,
    segmentation_model,
    that_looks,
)

from dynamicvis.model_card import save_model
from dynamicvis.tile_model import TileOutputs


class Loader:
    """A stand-in for `dynamicvis.geo.load_model`.

    Attributes:
        models: by name.
        calls: path, device and options of each call.
        shapes: of the batches that the models got.
        interrupt_at: number of the batch at which Ctrl-C is pressed.
    """

    def __init__(self, weights: Path) -> None:
        self.models = {
            "blobs": detection_model(),
            "masks": mask_model(name="masks"),
            "fields": segmentation_model(name="fields"),
            "changes": change_model(name="changes"),
            "kinds": classification_model(name="kinds"),
        }
        self.calls: list[tuple[Path, str, dict[str, bool]]] = []
        self.shapes: list[tuple[int, ...]] = []
        self.interrupt_at = 0
        for name, model in self.models.items():
            save_model(weights / f"{name}.safetensors", {"weight": torch.zeros(1)}, model.card)

    def __call__(self, path: Path, device: str, **options: bool) -> FakeModel:
        """The model called like the file."""
        self.calls.append((path, device, options))
        model = embedding_model() if options["embedding"] else self.models.get(path.stem, self.models["blobs"])
        if options["selection"]:
            model = that_looks(model)

        def answer(images: Any) -> TileOutputs:
            self.shapes.append(images.shape)
            if len(self.shapes) == self.interrupt_at:
                signal.raise_signal(signal.SIGINT)
            return model(images)

        return FakeModel(model.card, answer)


def main() -> None:
    """``dynamicvis``, told the weights folder, and maybe the largest size of a file, by the environment."""
    import resource

    from dynamicvis import model_card
    from dynamicvis.cli.main import dynamicvis
    from dynamicvis.geo import models

    model_card._WEIGHTS = Path(os.environ["TEST_WEIGHTS"])
    loader = Loader(model_card._WEIGHTS)
    loader.interrupt_at = int(os.environ.get("TEST_INTERRUPT", "0"))
    models.load_model = loader
    if "TEST_FILE_SIZE" in os.environ:
        limit = int(os.environ["TEST_FILE_SIZE"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    dynamicvis(sys.argv[1:], prog_name="dynamicvis")


if __name__ == "__main__":
    main()
