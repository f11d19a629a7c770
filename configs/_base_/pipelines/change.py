# Change detection: the steps that pipelines are put together from, and loaders. A data set adds its sizes and files.
_base_ = "flips.py"

load = dict(type="dynamicvis.LoadRasterPair")
mask = dict(type="dynamicvis.LoadMask", values=(0, 255))
rotate = dict(type="dynamicvis.RandomRotate", prob=0.5, degree=180)
distortion = dict(
    type="dynamicvis.PhotometricDistortion",
    brightness_delta=10,
    contrast_range=(0.8, 1.2),
    saturation_range=(0.8, 1.2),
    hue_delta=10,
)
# Saturation and hue are for red, green and blue.
band_distortion = dict(distortion, saturation_range=None, hue_delta=None)
pack = dict(type="PackSegInputs")

source = dict(type="dynamicvis.ChangeFolder")
train_dataloader = dict(
    drop_last=True, sampler=dict(type="DefaultSampler", shuffle=True), dataset=dict(source, split="train")
)
val_dataloader = dict(
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(source, split="val", test_mode=True),
)
test_dataloader = dict(
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(source, split="test", test_mode=True),
)
# F1, IoU, precision and recall of what changed, over all pixels of the split that are known.
val_evaluator = dict(type="dynamicvis.SegmentationMetric", prefix="change")
test_evaluator = val_evaluator
model_card = dict(value_range=(0, 255), colors=("#000000", "#d55e00"))
