_base_ = [
    "../_base_/models/embedder.py",
    "../_base_/datasets/ucmerced_features.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmpretrain"

# Nothing is trained by epochs: `python tools/test.py CONFIG CHECKPOINT` fits both classifiers on frozen features.
model = dict(backbone=dict(type="dynamicvis.DynamicVis", arch="base", img_size=512, out_indices=(3,)))
