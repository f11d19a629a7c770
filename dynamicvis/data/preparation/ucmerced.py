"""Seeded list files for UC Merced Land Use: 70 % of each class for training and validation, 30 % for testing."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from dynamicvis.data.preparation.scenes import UCMERCED_CLASSES, add_scene_arguments, run_scenes

HELP = "list files for UC Merced Land Use, scene classification"


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of the split, with the paper's 70 % for training."""
    add_scene_arguments(parser, train_fraction=0.7)


def run(options: Namespace) -> str:
    """Split from parsed arguments; returns what was written."""
    return run_scenes(options, UCMERCED_CLASSES)
