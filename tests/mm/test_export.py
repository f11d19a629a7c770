from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynamicvis.mm.export import export_model

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("config", "bands"),
    [
        ("ship_detection/dynamicvis-nano_fcos_levir-ship.py", ("red", "green", "blue")),
        ("ship_detection/dynamicvis-nano_fcos_sen2ships.py", ("blue", "green", "red", "nir")),
        ("tree_detection/dynamicvis-nano_fcos_neon-trees.py", ("red", "green", "blue")),
    ],
)
def test_card_names_the_bands_in_the_order_that_the_model_sees_them(config, bands, tmp_path):
    path = tmp_path / "config.py"
    card = dict(description="x", value_range=(0, 255), gsd=1.0, tile=64, overlap=16, score_threshold=0.1)
    card |= dict(training_data="x", license="Apache-2.0")
    path.write_text(f"_base_ = '{CONFIGS / config}'\nmodel_card = dict(**{card})\n")
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "last.pth")
    written = export_model(path, tmp_path / "last.pth", tmp_path / "model.safetensors", name="x")
    assert written.bands == bands
    assert len(written.mean) == len(bands)
