# mmseg's UPerNet for ADE20K with another backbone. Nothing else changes; `pretrained` belongs to the ResNet.
_base_ = "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py"
custom_imports = dict(imports=["dynamicvis.mm"], allow_failed_imports=False)
model = dict(
    pretrained=None,
    backbone=dict(_delete_=True, type="dynamicvis.DynamicVis", arch="nano"),
    decode_head=dict(in_channels=[32, 64, 128, 256]),
    auxiliary_head=dict(in_channels=128),
)
