# UPerNet with light neck and heads, for training from scratch on a CPU. The leaf config adds the backbone and the
# neck's in_channels (one per backbone stage).
_base_ = "upernet_fpn.py"

model = dict(
    data_preprocessor=dict(size=(256, 256)),
    neck=dict(out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64, norm_cfg=dict(type="BN"), align_corners=False),
    auxiliary_head=dict(in_channels=64, channels=64, norm_cfg=dict(type="BN"), align_corners=False),
    test_cfg=dict(crop_size=(256, 256), stride=(128, 128)),
)
