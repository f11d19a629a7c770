# UPerNet with light neck and heads on the nano backbone, for training from scratch on a CPU, with token selection at
# stride 4 alone. A gate multiplies by about 1 / N, and blocks behind gates learn next to nothing at first.
_base_ = "upernet_fpn.py"

model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="nano",
        keep_ratios=(1 / 8, None, None, None),
        img_size=256,
        noise=dict(start=0.1, end=1e-4),
    ),
    neck=dict(out_channels=64, in_channels=[32, 64, 128, 256]),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64, norm_cfg=dict(type="BN"), align_corners=False),
    auxiliary_head=dict(in_channels=64, channels=64, norm_cfg=dict(type="BN"), align_corners=False),
    test_cfg=dict(crop_size=(256, 256), stride=(128, 128)),
)
