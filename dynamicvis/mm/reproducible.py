"""Randomness that depends on the seed, the epoch and the sample, and on nothing else.

With it a resumed run goes on exactly as the uninterrupted one would have, whatever its workers had drawn before, and
several processes train on the very samples that one process trains on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from dynamicvis.registry import DATA_SAMPLERS, DATASETS, HOOKS


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """MMEngine's default sampler, which gives each sample a seed of its own; for `SeededDataset`."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in super().__iter__():
            yield _seed(self.seed, self.epoch, index), index


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A data set whose augmentation is fixed by the seed that `SeededSampler` sends with a sample.

    Python's and NumPy's global generators are seeded, from which the transforms of OpenMMLab draw.

    Args:
        dataset: config of the data set.
    """

    def __init__(self, dataset: dict[str, Any]) -> None:
        self.dataset = DATASETS.build(dataset)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Of the data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> Any:
        seed, index = item
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the generator that transforms draw from
        return self.dataset[index]


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seeds torch before every training iteration, so that router noise and dropout of a resumed run are the same."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        torch.manual_seed(_seed(runner.seed, get_rank(), runner.iter))


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
