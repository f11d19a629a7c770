# Regions of shards, for pretraining: steps and loaders. A data set adds its sizes and its splits.
_base_ = "flips.py"

load = [dict(type="dynamicvis.LoadRaster"), dict(type="LoadAnnotations", with_bbox=True)]
source = dict(type="dynamicvis.RegionShards")
train_dataloader = dict(
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="dynamicvis.SeededSampler", shuffle=True),
    batch_sampler=None,
    dataset=dict(type="dynamicvis.SeededDataset", dataset=source),
)
val_dataloader = dict(
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(source, test_mode=True),
)
test_dataloader = dict(sampler=dict(type="DefaultSampler", shuffle=False), dataset=dict(source, test_mode=True))
val_evaluator = dict(type="dynamicvis.RegionMetric")
test_evaluator = val_evaluator
model_card = dict(value_range=(0, 255), overlap=0)
