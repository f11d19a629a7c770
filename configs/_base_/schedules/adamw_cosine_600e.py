# Fine-tuning: AdamW, linear warm-up over 5 epochs, cosine to 0 per epoch.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=600, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-4, weight_decay=0.05),
    # No decay on norms, biases and D (all one-dimensional), nor on the three that are not.
    paramwise_cfg=dict(
        flat_decay_mult=0.0,
        custom_keys={
            "A_log": dict(decay_mult=0.0),
            "pos_embed": dict(decay_mult=0.0),
            "bbox_head.scales": dict(decay_mult=0.0),
        },
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=True, begin=5),
]
custom_hooks = [dict(type="dynamicvis.RouterNoiseHook")]
