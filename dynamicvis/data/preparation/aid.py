"""Seeded list files for AID: half of each class for training and validation, half for testing."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from dynamicvis.data.preparation.scenes import AID_CLASSES, add_scene_arguments, run_scenes

HELP = "list files for AID, scene classification"


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of the split, with the paper's 50 % for training."""
    add_scene_arguments(parser, train_fraction=0.5)


def run(options: Namespace) -> str:
    """Split from parsed arguments; returns what was written."""
    return run_scenes(options, AID_CLASSES)
