# mmpretrain's ImageNet classifier with another backbone. Nothing else changes.
_base_ = "mmpretrain::resnet/resnet50_8xb32_in1k.py"
custom_imports = dict(imports=["dynamicvis.mm"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="dynamicvis.DynamicVis", arch="nano", out_indices=(3,)),
    head=dict(in_channels=256),
)
