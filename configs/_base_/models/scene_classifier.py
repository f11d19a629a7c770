# Mean of the last map, layer norm, linear layer; Mixup or CutMix on every training batch. The leaf config adds the
# backbone, the channels of its last stage (neck.in_channels, head.in_channels), and the number of classes.
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    neck=dict(type="dynamicvis.MeanPoolNorm"),
    head=dict(
        type="LinearClsHead",
        loss=dict(type="CrossEntropyLoss", use_soft=True, loss_weight=1.0),
        init_cfg=dict(type="Normal", layer="Linear", std=0.01),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
tta_model = dict(type="AverageClsScoreTTA")
