"""Preprocessor for mmseg."""

from __future__ import annotations

import mmseg.models

from dynamicvis.mm.preprocessing import AnyBands
from dynamicvis.registry import MODELS


@MODELS.register_module()
class SegDataPreProcessor(AnyBands, mmseg.models.SegDataPreProcessor):
    """mmseg's ``SegDataPreProcessor`` for any number of bands."""
