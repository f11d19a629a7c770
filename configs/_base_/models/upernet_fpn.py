# UPerNet on an FPN of all four stages, with an auxiliary FCN head on the third level. The leaf config adds the
# backbone and the neck's in_channels (one per backbone stage).
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="dynamicvis.SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],  # RGB, the order that dynamicvis.LoadRaster gives
        std=[58.395, 57.12, 57.375],
        size=(1024, 1024),
        pad_val=0,
        seg_pad_val=255,
    ),
    neck=dict(type="FPN", out_channels=256, num_outs=4),
    decode_head=dict(
        type="UPerHead",
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=True,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=256,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=True,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(1024, 1024), stride=(512, 512)),
)
# `SegTTAModel` averages the probabilities of an image and its flips; see the data set's tta_pipeline.
tta_model = dict(type="SegTTAModel")
