"""Pretraining by meta-embedding multi-instance learning on annotated regions, in torch and torchvision."""

from dynamicvis.pretraining.embeddings import EmbeddingFileError, read_class_vectors
from dynamicvis.pretraining.head import RegionHead, contrast_losses
from dynamicvis.pretraining.model import RegionClassifier
from dynamicvis.pretraining.region_features import FeaturePyramid, RegionExtractor, to_regions

__all__ = [
    "EmbeddingFileError",
    "FeaturePyramid",
    "RegionClassifier",
    "RegionExtractor",
    "RegionHead",
    "contrast_losses",
    "read_class_vectors",
    "to_regions",
]
