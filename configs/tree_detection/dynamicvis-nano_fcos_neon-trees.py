_base_ = "_base_fcos_neon-trees.py"

model = dict(
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="nano",
        keep_ratios=(1 / 8, None, None, None),
        img_size=256,
        noise=dict(start=0.1, end=1e-4),
    ),
    neck=dict(in_channels=[32, 64, 128, 256]),
)

# What the single-file model says about itself besides what stands above.
model_card = dict(
    description="Tree crowns in aerial RGB imagery, one box per crown",
    value_range=(0, 255),
    gsd=0.1,
    tile=512,
    overlap=128,
    score_threshold=0.19,
    training_data=(
        "NEON airborne RGB at 0.1 m, sites YELL (2 images) and SOAP (1 image), 890 crown boxes less a validation part, "
        "as distributed with DeepForest 2.1.0 (Weinstein et al. 2020)"
    ),
    license="Apache-2.0",
)
