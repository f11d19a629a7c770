"""A siamese segmentor for mmseg: one backbone sees both dates."""

from __future__ import annotations

from typing import Any

from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import Tensor

from dynamicvis.registry import MODELS


@MODELS.register_module()
class SiameseSegmentor(EncoderDecoder):
    """mmseg's ``EncoderDecoder`` for pairs of images, ``type="dynamicvis.SiameseSegmentor"`` in a config.

    Input (B, 2C, H, W): the C bands of the first date, then those of the second. Both dates go through ``backbone``
    and ``pre_neck`` with the same weights, stacked on the batch; ``fusion`` makes one map a level of the two; ``neck``
    and ``decode_head`` see changes only. Names of parameters begin with ``backbone.``, ``pre_neck.``, ``fusion.``,
    ``neck.`` and ``decode_head.``, the first two as in the reference's pretraining.

    Args:
        backbone, decode_head: configs as for ``EncoderDecoder``; the backbone's ``in_channels`` are those of one date.
        pre_neck: config of a neck for the maps of one date, such as mmseg's ``FPN``.
        fusion: config of a module from the maps of either date to common ones, such as :class:`ConcatFusion`.
        neck: config of a neck for the common maps, or None.
        **settings: as for ``EncoderDecoder``.

    Raises:
        ValueError: in ``forward``, of an input with an odd number of bands.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        decode_head: dict[str, Any],
        *,
        pre_neck: dict[str, Any],
        fusion: dict[str, Any],
        neck: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, decode_head, neck, **settings)
        self.pre_neck = MMSEG_MODELS.build(pre_neck)
        self.fusion = MMSEG_MODELS.build(fusion)

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps of the change, as ``neck`` orders them, from pairs (B, 2C, H, W)."""
        batch, bands, height, width = inputs.shape
        if bands % 2:
            raise ValueError(
                f"SiameseSegmentor takes the bands of two dates one after the other, got {bands}, which is odd"
            )
        # Interleaved, so that each pair stays together: (B, 2, C, H, W) -> (2B, C, H, W).
        maps = self.pre_neck(self.backbone(inputs.reshape(2 * batch, bands // 2, height, width)))
        fused = self.fusion(tuple(level[0::2] for level in maps), tuple(level[1::2] for level in maps))
        return self.neck(fused) if self.with_neck else fused
