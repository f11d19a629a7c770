# ForestNet, Landsat-8, 4 drivers of deforestation. Queries: the val split; database: the test split.
_base_ = "forestnet12_retrieval.py"

classes = dict(num_classes=4)
test_dataloader = dict(dataset=dict(datasets=[dict(_base_.query, **classes), dict(_base_.database, **classes)]))
