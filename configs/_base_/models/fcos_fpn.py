# FCOS with FPN on all four stages; objects from a few pixels on. The leaf config adds the backbone and the neck's
# in_channels (one per backbone stage).
model = dict(
    type="FCOS",
    data_preprocessor=dict(
        type="dynamicvis.DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        pad_size_divisor=32,
    ),
    neck=dict(type="FPN", out_channels=256, num_outs=5),
    bbox_head=dict(
        type="FCOSHead",
        num_classes=1,
        in_channels=256,
        feat_channels=256,
        stacked_convs=4,
        strides=[4, 8, 16, 32, 64],
        regress_ranges=((0, 20), (16, 40), (32, 80), (64, 160), (128, 1024)),
        center_sampling=True,
        norm_on_bbox=True,
        centerness_on_reg=True,
        dcn_on_last_conv=False,
        conv_bias=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=1.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.6), max_per_img=100
    ),
)
# Boxes of an image and its flips, merged by NMS; see the data set's tta_pipeline.
tta_model = dict(type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.6), max_per_img=100))
