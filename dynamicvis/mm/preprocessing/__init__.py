"""Data preprocessors for images of any number of bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class AnyBands:
    """Mixed into a preprocessor of MMEngine's kind, which takes mean and std of one or three bands only.

    Args:
        mean, std: one value a band, in the units of the image; neither for images as they are.

    Raises:
        ValueError: mean and std differ in length, or a std is not positive.
    """

    mean: Tensor
    _enable_normalize: bool

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        if (mean is None) != (std is None) or (mean is not None and std is not None and len(mean) != len(std)):
            raise ValueError(f"mean and std need one value a band each, got mean={mean} and std={std}")
        if mean is None or std is None:
            return
        if min(std) <= 0:
            raise ValueError(f"std must be positive, got {tuple(std)}")
        self._enable_normalize = True
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), False)  # type: ignore[attr-defined]

    def forward(self, data: Any, training: bool = False) -> Any:
        """Normalise, pad and stack a batch, as the class it is mixed into does.

        Raises:
            ValueError: an image has another number of bands than mean and std.
        """
        if self._enable_normalize and isinstance(data, dict):
            expected = len(self.mean)
            for index, image in enumerate(data["inputs"]):
                if len(image) != expected:
                    samples = data.get("data_samples") or []
                    path = samples[index].metainfo.get("img_path") if index < len(samples) else None
                    raise ValueError(
                        f"{path or 'an image'} has {len(image)} bands, but mean and std of the data preprocessor are "
                        f"for {expected}; give one value a band, or load as many bands"
                    )
        return super().forward(data, training)  # type: ignore[misc]
