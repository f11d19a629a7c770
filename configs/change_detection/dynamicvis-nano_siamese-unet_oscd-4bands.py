# From scratch on one core: light neck, decoder and head, and token selection at stride 4 alone. A gate multiplies by
# about 1 / N, and blocks behind gates learn next to nothing at first.
_base_ = [
    "../_base_/models/siamese_unet_light.py",
    "../_base_/datasets/oscd_4bands.py",
    "../_base_/schedules/adamw_cosine_ema.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmseg"

# Mean and standard deviation of the training tiles, values above 6000 taken as 6000.
model = dict(
    data_preprocessor=dict(
        mean=[1219.1, 1095.4, 1021.2, 1829.9] * 2, std=[233.5, 279.9, 422.1, 722.3] * 2, size=(64, 64)
    ),
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="nano",
        in_channels=4,
        keep_ratios=(1 / 8, None, None, None),
        img_size=64,
        noise=dict(start=0.1, end=1e-4),
    ),
    # Each level alone: from the start, a pyramid would add the differences between seasons, which the coarse levels are
    # full of, to the finest, and the decoder brings the levels together anyway.
    pre_neck=dict(
        _delete_=True,
        type="mmdet.ChannelMapper",
        in_channels=[32, 64, 128, 256],
        out_channels=48,
        kernel_size=1,
        act_cfg=None,
    ),
    # Of the pixels of a crop some 3 % changed; unweighted, a model from scratch settles on "unchanged" at first.
    decode_head=dict(
        # The first steps move a weight by more than mmseg's 0.01. With so few changed pixels they would turn every
        # weight of the classifier against "changed", and its probability could not pass one half by much.
        init_cfg=dict(type="Normal", std=0.2, override=dict(name="conv_seg")),
        loss_decode=[
            dict(type="dynamicvis.WeightedCrossEntropyLoss", class_weight=[1.0, 3.0]),
            dict(type="dynamicvis.SoftDiceLoss", loss_weight=3.0, smooth=1.0),
        ],
    ),
    test_cfg=dict(crop_size=(64, 64), stride=(32, 32)),
)
# An epoch is six iterations.
train_cfg = dict(max_epochs=100, val_interval=10)
default_hooks = dict(
    logger=dict(interval=5), checkpoint=dict(interval=10, save_best="change/IoU_changed", rule="greater")
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]
# Averaged over some 200 iterations from early on: a run has 600, and batches of small crops are noisy.
custom_hooks = [
    dict(type="dynamicvis.RouterNoiseHook"),
    dict(type="EMAHook", ema_type="mmdet.ExpMomentumEMA", momentum=0.005, gamma=50, update_buffers=True, priority=49),
]
