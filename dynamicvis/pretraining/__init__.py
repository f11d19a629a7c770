"""Pretraining by meta-embedding multi-instance learning on annotated regions, in torch and torchvision."""

from dynamicvis.pretraining.region_features import FeaturePyramid, RegionExtractor, to_regions

__all__ = ["FeaturePyramid", "RegionExtractor", "to_regions"]
