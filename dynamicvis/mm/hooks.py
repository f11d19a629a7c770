"""Runner hooks."""

from __future__ import annotations

import math
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from dynamicvis.backbone import DynamicVis, NoiseDecay, RouterBalance
from dynamicvis.mm.checkpoints import whole_so_far
from dynamicvis.mm.errors import DivergedError
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


@HOOKS.register_module()
class RouterBalanceHook(Hook):
    """Adds a load-balancing loss of the routers to any model with a DynamicVis backbone, as ``loss_balance``.

    Args:
        weight: of the loss, which is 0 when all places of an image are selected equally often.

    See :class:`dynamicvis.backbone.RouterBalance`.
    """

    def __init__(self, weight: float = 0.01) -> None:
        self.weight = weight

    def before_train(self, runner: Runner) -> None:
        """Watch the routers, and let their loss join those of the model.

        Raises:
            ValueError: the model has no DynamicVis backbone, or none that selects.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        balances = [RouterBalance(module) for module in model.modules() if isinstance(module, DynamicVis)]
        if not balances:
            raise ValueError("RouterBalanceHook needs a model with a DynamicVis backbone; remove the hook")
        parse_losses = model.parse_losses

        def parse_all_losses(losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            return parse_losses(losses | {"loss_balance": self.weight * sum(balance.loss() for balance in balances)})

        model.parse_losses = parse_all_losses


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a training whose loss is NaN or infinite, and names the iteration and the images of its batch.

    Every loss is looked at: MMEngine reads it for its log at every iteration, so that it is at hand. Gradients that
    overflow, as a scaler of losses meets and skips them, do not count.

    Raises:
        DivergedError: the loss is NaN or infinite.
    """

    # Before averages of the weights and checkpoints are made of what the iteration did.
    priority = "HIGH"

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        losses = outputs or {}
        names = ["loss"] if "loss" in losses else [name for name in losses if "loss" in name]
        for name in names:
            value = float(losses[name].detach())
            if not math.isfinite(value):
                raise DivergedError(
                    f"{name} is {value} at iteration {runner.iter + 1}, in epoch {runner.epoch + 1}, with "
                    f"{_images(data_batch)}; {whole_so_far(runner)}; look at these images and their labels, or lower "
                    "optim_wrapper.optimizer.lr, and go on with --resume"
                )


def _images(batch: Any) -> str:
    """The images of a batch, for a message."""
    samples = batch.get("data_samples") if isinstance(batch, dict) else None
    paths = [str(path) for sample in samples or () if (path := getattr(sample, "img_path", None)) is not None]
    if not paths:
        return "images that the pipeline does not name (meta_keys of its last transform without img_path)"
    shown = ", ".join(paths[:8])
    return f"the images {shown}" if len(paths) <= 8 else f"the images {shown} and {len(paths) - 8} more"
