# From scratch, on a CPU: narrow neck and heads, few proposals, and token selection at stride 4 alone.
_base_ = [
    "../_base_/models/mask_rcnn_fpn.py",
    "../_base_/datasets/sen2ships.py",
    "../_base_/schedules/adamw_cosine_ema.py",
    "../_base_/runtime/default.py",
]

model = dict(
    data_preprocessor=dict(mean=[755, 868, 823, 1316], std=[560, 638, 800, 1292]),
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="nano",
        in_channels=4,
        keep_ratios=(1 / 8, None, None, None),
        img_size=256,
        noise=dict(start=0.1, end=1e-4),
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, norm_cfg=dict(type="GN", num_groups=8)),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=1),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_classes=1),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
train_cfg = dict(max_epochs=12, val_interval=1)
default_hooks = dict(checkpoint=dict(save_best="coco/segm_mAP_50", rule="greater"))

val_evaluator = dict(metric=["bbox", "segm"])
test_evaluator = dict(metric=["bbox", "segm"])
