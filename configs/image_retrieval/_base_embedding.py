_base_ = ["../_base_/models/embedder.py", "../_base_/runtime/default.py"]
default_scope = "mmpretrain"

# Nothing is trained: `python tools/test.py CONFIG CHECKPOINT` evaluates the backbone of any checkpoint.
model = dict(backbone=dict(type="dynamicvis.DynamicVis", arch="base", img_size=512, out_indices=(3,)))
