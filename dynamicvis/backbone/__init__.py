"""The DynamicVis backbone: a selective state-space model over dynamically selected regions."""

from dynamicvis.backbone.balance import RouterBalance, balance_loss
from dynamicvis.backbone.model import DynamicVis, Selection
from dynamicvis.backbone.noise import NoiseDecay
from dynamicvis.backbone.variants import VARIANTS, create_backbone, variant_settings

__all__ = [
    "VARIANTS",
    "DynamicVis",
    "NoiseDecay",
    "RouterBalance",
    "Selection",
    "balance_loss",
    "create_backbone",
    "variant_settings",
]
