"""What a run makes of a scene: a class for each family of tasks. `product_of` is the only look-up by task."""

from __future__ import annotations

from dynamicvis.geo.products.cells import ClassCells, EmbeddingCells
from dynamicvis.geo.products.class_map import ClassMap
from dynamicvis.geo.products.objects import Objects
from dynamicvis.geo.products.of_model import ModelProduct
from dynamicvis.model_card import ModelCard

_FAMILIES: tuple[type[ModelProduct], ...] = (Objects, ClassMap, ClassCells, EmbeddingCells)
_BY_TASK = {task: family for family in _FAMILIES for task in family.tasks}


def product_of(card: ModelCard) -> type[ModelProduct]:
    """The class of what a model of this card gives."""
    return _BY_TASK[card.task]
