# The yardstick: the same neck, head, data and schedule on a ResNet-18, also from scratch.
_base_ = "_base_fcos_neon-trees.py"

model = dict(
    backbone=dict(
        type="ResNet",
        depth=18,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
