"""How many objects an mmdet model gives for a tile, which must not depend on how large the tile is."""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping
from typing import Any

# Settings for testing that bound a number of candidates or objects of an image; -1 is no bound.
_NAMES = ("max_per_img", "nms_pre", "topk", "corner_topk", "top_k")
# A model with a fixed set of queries gives no more of them for a larger image.
_QUERIES = ("num_queries", "num_proposals")


class ObjectCaps:
    """The caps on objects of a model, which grow with the area of the tile.

    A cap is meant for images of the size that the model learned from. For a tile of four times their area it is four
    times as large, so that the density of objects that the model can report stays the same. For smaller tiles it is
    as the model's settings say.

    Args:
        model: of mmdet.
        area: pixels of a tile that the caps are meant for.
    """

    def __init__(self, model: Any, area: int) -> None:
        self._area = area
        grows = not any(hasattr(module, name) for module in model.modules() for name in _QUERIES)
        self._settings = list(_settings(model)) if grows else []
        last = (
            getattr(model, "roi_head", None) or getattr(model, "bbox_head", None) or getattr(model, "mask_head", None)
        )
        self._last = getattr(last, "test_cfg", None) or getattr(model, "test_cfg", None) or {}

    def fit(self, height: int, width: int) -> None:
        """Set the caps for tiles of a size, pixels."""
        factor = max(1.0, height * width / self._area)
        for settings, name, value in self._settings:
            settings[name] = math.ceil(value * factor)

    @property
    def most(self) -> int | None:
        """The most objects that the model now gives for a tile; None where its settings do not say."""
        cap = self._last.get("max_per_img")
        return int(cap) if cap is not None and cap > 0 else None


def _settings(model: Any) -> Iterator[tuple[MutableMapping[str, Any], str, int]]:
    """Each cap of a model once: the mapping that holds it, its name and its value."""
    waiting = [getattr(module, "test_cfg", None) for module in model.modules()]
    seen: set[int] = set()
    while waiting:
        settings = waiting.pop()
        if not isinstance(settings, MutableMapping) or id(settings) in seen:
            continue
        seen.add(id(settings))
        waiting += settings.values()
        for name in _NAMES:
            value = settings.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                yield settings, name, value
