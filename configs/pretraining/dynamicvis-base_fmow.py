# Pretraining on regions: classes, and their contrast against category embeddings. 512 images in eight processes.
_base_ = [
    "../_base_/models/region_classifier.py",
    "../_base_/datasets/fmow.py",
    "../_base_/schedules/adamw_cosine_200e.py",
    "../_base_/runtime/default.py",
]

model = dict(
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="base",
        # As the paper says; the reference's pretraining keeps it at 0.1: `model.backbone.noise=0.1`.
        noise=dict(start=0.1, end=1e-4),
    ),
    in_channels=[96, 192, 384, 768],
)
optim_wrapper = dict(type="dynamicvis.AmpOptimWrapper", dtype="bfloat16")
# Selected on the validation split; the test split is for tools/test.py alone.
default_hooks = dict(checkpoint=dict(save_best="regions/f1", rule="greater"))
