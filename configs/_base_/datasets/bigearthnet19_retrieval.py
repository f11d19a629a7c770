# BigEarthNet v1, Sentinel-2, 19 classes, several a patch. Queries: the val split; database: the test split.
_base_ = "bigearthnet43_retrieval.py"

classes = dict(num_classes=19)
test_dataloader = dict(dataset=dict(datasets=[dict(_base_.query, **classes), dict(_base_.database, **classes)]))
