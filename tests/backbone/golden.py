"""Files that hold the reference's arithmetic: weights, input, outputs and gradients, computed in float64."""

from __future__ import annotations

import ast
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dynamicvis.backbone import DynamicVis

FOLDER = Path(__file__).parents[1] / "data" / "golden"
NAMES = ("token_selection_64", "dense_64")


class Golden:
    """One file: its tensors by name, and the backbone it was computed with."""

    def __init__(self, name: str) -> None:
        self.path = FOLDER / f"{name}.safetensors"
        self.tensors = load_file(self.path)
        with safe_open(self.path, framework="pt") as file:
            self.settings = {key: value for key, value in file.metadata().items() if key != "computed_in"}

    def group(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors below ``name/``, without that prefix."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def backbone(self) -> DynamicVis:
        """A backbone of the file's architecture, with weights of its own."""
        value = {key: ast.literal_eval(text) for key, text in self.settings.items()}
        return DynamicVis(
            dims=value["dims"],
            depths=value["depths"],
            keep_ratios=[1 / ratio for ratio in value["ratios"]],
            global_tokens=value["global_tokens"],
            residual="softmax" if value["is_softmax_on_x"] else "identity",
            img_size=value["img_size"],
        ).eval()
