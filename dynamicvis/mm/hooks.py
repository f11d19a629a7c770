"""Runner hooks."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from dynamicvis.backbone import NoiseDecay
from dynamicvis.registry import HOOKS


@HOOKS.register_module()
class RouterNoiseHook(Hook):
    """Advances the decaying Gumbel noise of every router in the model (paper, section 3.3).

    The progress of the noise schedule is the number of finished epochs over all epochs, or of iterations where
    training runs by iteration. Modules with a fixed noise scale are left alone.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        progress = loop.epoch / loop.max_epochs if by_epoch else loop.iter / loop.max_iters
        for module in runner.model.modules():
            noise = getattr(module, "noise", None)
            if isinstance(noise, NoiseDecay):
                noise.progress = progress
