# Pretraining: AdamW, cosine per epoch to 1 % of the learning rate, no warm-up.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=200, val_interval=10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=4e-4, betas=(0.9, 0.95), weight_decay=0.05),
    # No decay on norms, biases, D and gamma (all one-dimensional), nor on these. The reference decays everything:
    # `--cfg-options optim_wrapper.paramwise_cfg=None`.
    paramwise_cfg=dict(
        flat_decay_mult=0.0,
        custom_keys={
            "A_log": dict(decay_mult=0.0),
            "pos_embed": dict(decay_mult=0.0),
            "logit_scale": dict(decay_mult=0.0),
            "category_embedding": dict(decay_mult=0.0),
        },
    ),
)
param_scheduler = [dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True)]
custom_hooks = [
    dict(type="dynamicvis.RouterNoiseHook"),
    # A resumed run sees the same samples, augmentation and noise as an uninterrupted one.
    dict(type="dynamicvis.IterationSeedHook"),
    dict(type="mmdet.NumClassCheckHook"),
]
