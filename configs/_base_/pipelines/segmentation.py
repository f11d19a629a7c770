# Segmentation: the steps that pipelines are put together from, and loaders. A data set adds its sizes and files.
_base_ = "flips.py"

load = dict(type="dynamicvis.LoadRaster")
mask = dict(type="dynamicvis.LoadMask", values=(0, 255))
augmentation = [
    *_base_.flips,
    dict(type="RandomRotate", prob=0.5, degree=180, pad_val=(123.675, 116.28, 103.53), seg_pad_val=255),
    dict(type="PhotoMetricDistortion"),
]
pad = dict(type="Pad", pad_val=dict(img=(123.675, 116.28, 103.53), seg=255))
pack = dict(type="PackSegInputs")

train_dataloader = dict(drop_last=True, sampler=dict(type="DefaultSampler", shuffle=True))
val_dataloader = dict(batch_size=1, sampler=dict(type="DefaultSampler", shuffle=False), dataset=dict(test_mode=True))
test_dataloader = dict(batch_size=1, sampler=dict(type="DefaultSampler", shuffle=False), dataset=dict(test_mode=True))

# F1, IoU, precision and recall of every class.
val_evaluator = dict(type="dynamicvis.SegmentationMetric")
test_evaluator = dict(type="dynamicvis.SegmentationMetric")
