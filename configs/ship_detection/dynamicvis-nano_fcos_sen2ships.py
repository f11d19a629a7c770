# From scratch, on a CPU: a light neck and head on strides 4 to 32, and token selection at stride 4 alone.
_base_ = [
    "../_base_/models/fcos_light.py",
    "../_base_/datasets/sen2ships.py",
    "../_base_/schedules/adamw_cosine_ema.py",
    "../_base_/runtime/default.py",
]

model = dict(
    data_preprocessor=dict(
        type="dynamicvis.DetDataPreprocessor", mean=[755, 868, 823, 1316], std=[560, 638, 800, 1292], bgr_to_rgb=False
    ),
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="nano",
        in_channels=4,
        keep_ratios=(1 / 8, None, None, None),
        img_size=256,
        noise=dict(start=0.1, end=1e-4),
    ),
    neck=dict(in_channels=[32, 64, 128, 256], start_level=0, num_outs=4),
    bbox_head=dict(strides=[4, 8, 16, 32], regress_ranges=((-1, 24), (24, 48), (48, 96), (96, 1e8))),
    test_cfg=dict(max_per_img=100),
)
train_cfg = dict(max_epochs=12, val_interval=1)
default_hooks = dict(checkpoint=dict(save_best="coco/bbox_mAP", rule="greater"))

# One threshold only, so bbox_mAP is AP50.
val_evaluator = dict(metric="bbox", metric_items=["mAP", "mAP_s"], iou_thrs=[0.5])
test_evaluator = val_evaluator
