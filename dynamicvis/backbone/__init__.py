"""The DynamicVis backbone: a selective state-space model over dynamically selected regions."""

from dynamicvis.backbone.model import DynamicVis, Selection
from dynamicvis.backbone.noise import NoiseDecay
from dynamicvis.backbone.variants import VARIANTS, create_backbone, variant_settings

__all__ = ["VARIANTS", "DynamicVis", "NoiseDecay", "Selection", "create_backbone", "variant_settings"]
