"""Runner hooks."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from dynamicvis.backbone import DynamicVis, NoiseDecay, RouterBalance
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
