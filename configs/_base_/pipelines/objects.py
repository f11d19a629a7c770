# Objects with boxes in COCO's format, as data sets are prepared here: steps and loaders. A data set adds its
# pipelines, and the splits of its training.
_base_ = "flips.py"

pack_test = dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"))
source = dict(type="dynamicvis.CocoDataset", data_prefix=dict(img="images/"))

train_dataloader = dict(sampler=dict(type="DefaultSampler", shuffle=True), batch_sampler=None)
val_dataloader = dict(
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(source, ann_file="annotations/val.json", test_mode=True),
)
test_dataloader = dict(
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(source, ann_file="annotations/test.json", test_mode=True),
)
val_evaluator = dict(type="dynamicvis.CocoMetric")
test_evaluator = dict(type="dynamicvis.CocoMetric")
