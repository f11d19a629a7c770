"""Colours of classes are the same wherever they are shown."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mmengine import Config

from dynamicvis.mm.classes import class_color, class_colors, class_names
from dynamicvis.mm.export import _classes as classes_of_card
from dynamicvis.mm.predictions import _classes as classes_of_predictions

NAMES = ("car", "ship", "plane", "tank")
FIVE = [(9, 8, 7), (6, 5, 4), (3, 2, 1), (0, 9, 0), (5, 5, 5)]


@pytest.mark.parametrize("palette", [None, "random", [(1, 2, 3)], FIVE])
def test_a_model_file_and_predictions_show_a_class_in_one_color(palette):
    metainfo = dict(classes=NAMES, palette=palette)
    dataset = dict(type="mmengine.BaseDataset", metainfo=metainfo, pipeline=[])
    card = classes_of_card(Config(dict(test_dataloader=dict(dataset=dataset))), "detection")
    shown = classes_of_predictions(SimpleNamespace(metainfo=metainfo))
    assert card["classes"] == shown.names == NAMES
    assert card["colors"] == tuple("#" + bytes(shown.color(index)).hex() for index in range(4))
    if palette is FIVE:
        assert [shown.color(index) for index in range(4)] == FIVE[:4]


def test_colors_that_nobody_gave_differ():
    assert len({class_color(index) for index in range(60)}) == 60
    assert class_names({"classes": "ship"}) == ("ship",)
    assert class_colors({}) == ()
