"""Preprocessor for mmdet."""

from __future__ import annotations

import mmdet.models

from dynamicvis.mm.preprocessing import AnyBands
from dynamicvis.registry import MODELS


@MODELS.register_module()
class DetDataPreprocessor(AnyBands, mmdet.models.DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` for any number of bands."""
