"""The reference's heads and its pretraining model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpretrain.models import LinearClsHead
from mmpretrain.registry import MODELS

from dynamicvis.mm.reference.arguments import UnsupportedSetting


@MODELS.register_module()
class DynamicVisClsHead(LinearClsHead):
    """mmpretrain's ``LinearClsHead``.

    Args:
        load_balancing_loss_cfg: None.
        **settings: as of ``LinearClsHead``.

    Raises:
        UnsupportedSetting: with ``load_balancing_loss_cfg``, which fails in the reference as well.
    """

    def __init__(
        self, *arguments: Any, load_balancing_loss_cfg: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        if load_balancing_loss_cfg is not None:
            raise UnsupportedSetting(
                "DynamicVisClsHead", "load_balancing_loss_cfg", dict(load_balancing_loss_cfg), "remove it"
            )
        super().__init__(*arguments, **settings)
