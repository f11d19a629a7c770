# The model of pretraining and region classification: classes of given regions. The leaf config adds the backbone and
# in_channels (one per backbone stage).
model = dict(
    type="dynamicvis.RegionClassifier",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=False,  # dynamicvis.LoadRaster gives RGB
        pad_size_divisor=32,
    ),
    num_classes=63,
    label_smoothing=0.1,
    contrast_weight=0.5,
)
