# The siamese model of siamese_unet.py with light neck, decoder and head, for training from scratch: the fusion begins
# as a difference of the dates. The leaf config adds the backbone, the preprocessor's mean and std of both dates, and
# the pre_neck's in_channels.
norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    type="dynamicvis.SiameseSegmentor",
    data_preprocessor=dict(type="dynamicvis.SegDataPreProcessor", size=(128, 128), pad_val=0, seg_pad_val=255),
    pre_neck=dict(type="mmseg.FPN", out_channels=48, num_outs=4),
    fusion=dict(type="dynamicvis.ConcatFusion", in_channels=[48] * 4, norm_cfg=norm_cfg, difference=True),
    neck=dict(type="dynamicvis.UNetDecoder", in_channels=[48] * 4, dec_num_convs=(1, 1, 1), norm_cfg=norm_cfg),
    decode_head=dict(
        type="dynamicvis.MLPSegHead",
        in_channels=[48] * 4,
        in_index=[0, 1, 2, 3],
        channels=48,
        dropout_ratio=0.0,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=[
            dict(type="mmseg.CrossEntropyLoss", loss_weight=1.0, avg_non_ignore=True),
            dict(type="dynamicvis.SoftDiceLoss", loss_weight=3.0, smooth=1.0),
        ],
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(128, 128), stride=(64, 64)),
)
# `SegTTAModel` averages the probabilities of a pair and its flips; see the data set's tta_pipeline.
tta_model = dict(type="SegTTAModel")
