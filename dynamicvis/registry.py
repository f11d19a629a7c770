"""Registries of scope ``dynamicvis`` for OpenMMLab configs.

MMEngine resolves ``type="dynamicvis.X"`` by importing ``dynamicvis.registry`` and then each registry's ``locations``,
so this module must keep its name and import nothing but MMEngine's registries.

Each registry has a table of modules by the name that they register; a module is imported when a config first uses one
of its names, since OpenMMLab's packages take seconds to import and a detector needs no segmentation. What is in no
table, such as the backbone, is registered by ``dynamicvis.mm`` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import mmengine.registry as root
from mmengine.registry import Registry

_SCOPE = "dynamicvis"


class LazyRegistry(Registry):
    """A registry that imports the module of a name when it is asked for.

    Args:
        name: name of the registry, as its parent's.
        parent: MMEngine's registry.
        modules: module below ``dynamicvis.mm`` by name of the class it registers.
    """

    def __init__(self, name: str, parent: Registry, modules: Mapping[str, str]) -> None:
        super().__init__(name, parent=parent, scope=_SCOPE, locations=["dynamicvis.mm"])
        self.modules = dict(modules)

    def get(self, key: str) -> Any:
        """The class registered as ``key``, or None."""
        scope, _, name = key.rpartition(".")
        if scope in ("", _SCOPE) and name in self.modules:
            import_module(f"dynamicvis.mm.{self.modules[name]}")
        return super().get(key)


MODELS = LazyRegistry(
    "model",
    root.MODELS,
    {
        "ConcatFusion": "change.decoder",
        "DetDataPreprocessor": "preprocessing.detection",
        "Embedder": "embedding",
        "MLPSegHead": "change.decoder",
        "MeanPoolNorm": "pooling",
        "RegionClassifier": "pretraining",
        "RegionRoIExtractor": "roi_extractors",
        "SegDataPreProcessor": "preprocessing.segmentation",
        "SiameseSegmentor": "change.segmentor",
        "SoftDiceLoss": "change.loss",
        "UNetDecoder": "change.decoder",
        "WeightedCrossEntropyLoss": "change.loss",
    },
)
TRANSFORMS = LazyRegistry(
    "transform",
    root.TRANSFORMS,
    {
        "LoadBigEarthNetPatch": "reflectance",
        "LoadMask": "loading",
        "LoadRaster": "loading",
        "LoadRasterPair": "change.transforms",
        "PhotometricDistortion": "change.transforms",
        "RandomRotate": "change.transforms",
        "ReflectanceToByte": "reflectance",
    },
)
DATASETS = LazyRegistry(
    "dataset",
    root.DATASETS,
    {
        "AID": "datasets.scenes",
        "BigEarthNet": "datasets.retrieval",
        "ChangeFolder": "change.datasets",
        "CocoDataset": "datasets.detection",
        "ForestNet": "datasets.retrieval",
        "MassachusettsRoads": "datasets.segmentation",
        "OSCD": "change.datasets",
        "RegionShards": "datasets.regions",
        "SeededDataset": "reproducible",
        "SegmentationFolder": "datasets.segmentation",
        "TorchGeo": "datasets.torchgeo_bridge",
        "UCMerced": "datasets.scenes",
        "WHUBuilding": "datasets.segmentation",
        "WHUCD": "change.datasets",
    },
)
METRICS = LazyRegistry(
    "metric",
    root.METRICS,
    {
        "CocoMetric": "metrics.detection",
        "FrozenFeatureMetric": "metrics.features",
        "PrecisionRecallMetric": "metrics.detection",
        "RegionMetric": "metrics.regions",
        "RetrievalMetric": "metrics.features",
        "SegmentationMetric": "metrics.segmentation",
    },
)
DATA_SAMPLERS = LazyRegistry(
    "data sampler",
    root.DATA_SAMPLERS,
    {
        "SeededSampler": "reproducible",
    },
)
HOOKS = LazyRegistry(
    "hook",
    root.HOOKS,
    {
        "CheckpointHook": "checkpoints",
        "FiniteLossHook": "hooks",
        "IterationSeedHook": "reproducible",
        "SkippedImagesHook": "loading",
    },
)
OPTIM_WRAPPERS = LazyRegistry(
    "optim_wrapper",
    root.OPTIM_WRAPPERS,
    {
        "AmpOptimWrapper": "optim",
    },
)
OPTIM_WRAPPER_CONSTRUCTORS = LazyRegistry(
    "optimizer wrapper constructor",
    root.OPTIM_WRAPPER_CONSTRUCTORS,
    {
        "LayerDecayConstructor": "optim",
    },
)
MODEL_WRAPPERS = LazyRegistry(
    "model_wrapper",
    root.MODEL_WRAPPERS,
    {
        "FullySharded": "distributed",
    },
)
RUNNERS = LazyRegistry(
    "runner",
    root.RUNNERS,
    {
        "ShardedRunner": "distributed",
    },
)
