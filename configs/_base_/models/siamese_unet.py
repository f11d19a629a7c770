# Siamese change detection: both dates through one backbone and FPN, per level concatenated and reduced to the channels
# of one, U-Net decoder over five levels, MLP head at the size of the finest. The leaf config adds the backbone (its
# in_channels are the bands of one date) and the pre_neck's in_channels (one per backbone stage).
norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    type="dynamicvis.SiameseSegmentor",
    # Red, green, blue of both dates, as the loading leaves them. Smaller crops are filled up with the mean.
    data_preprocessor=dict(
        type="dynamicvis.SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53] * 2,
        std=[58.395, 57.12, 57.375] * 2,
        size=(1024, 1024),
        pad_val=0,
        seg_pad_val=255,
    ),
    pre_neck=dict(type="mmseg.FPN", out_channels=256, num_outs=5),
    fusion=dict(type="dynamicvis.ConcatFusion", in_channels=[256] * 5, norm_cfg=norm_cfg),
    neck=dict(type="dynamicvis.UNetDecoder", in_channels=[256] * 5, dec_num_convs=(2, 2, 2, 2), norm_cfg=norm_cfg),
    decode_head=dict(
        type="dynamicvis.MLPSegHead",
        in_channels=[256] * 5,
        in_index=[0, 1, 2, 3, 4],
        channels=256,
        dropout_ratio=0.0,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=[
            dict(type="mmseg.CrossEntropyLoss", loss_weight=1.0),
            dict(type="dynamicvis.SoftDiceLoss", loss_weight=3.0, smooth=1.0),
        ],
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(1024, 1024), stride=(512, 512)),
)
# `SegTTAModel` averages the probabilities of a pair and its flips; see the data set's tta_pipeline.
tta_model = dict(type="SegTTAModel")
