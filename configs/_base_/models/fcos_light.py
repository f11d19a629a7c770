# FCOS with a light neck and head, for crowns of 15 to 100 pixels. The leaf config adds the backbone and the
# neck's in_channels (one per backbone stage).
model = dict(
    type="FCOS",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1,  # the backbone pads by itself; so scenes are seen here as they are in GeoTIFF inference
    ),
    neck=dict(
        type="FPN",
        out_channels=64,
        start_level=1,
        num_outs=3,
        norm_cfg=dict(type="GN", num_groups=8),
    ),
    bbox_head=dict(
        type="FCOSHead",
        num_classes=1,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        strides=[8, 16, 32],
        regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
        center_sampling=True,
        center_sample_radius=1.5,
        norm_on_bbox=True,
        centerness_on_reg=True,
        norm_cfg=dict(type="GN", num_groups=8),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=1.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=300
    ),
)
