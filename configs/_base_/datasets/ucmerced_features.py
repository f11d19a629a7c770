# UC Merced for classification by frozen features: the training part is the database, the test part the queries. Lists
# as for datasets/ucmerced.py.
_base_ = "ucmerced_retrieval.py"

database = dict(_base_.database, ann_file="splits/trainval.txt")
query = dict(_base_.query, ann_file="splits/test.txt")
test_dataloader = dict(dataset=dict(datasets=[database, query]))
test_evaluator = dict(_delete_=True, type="dynamicvis.FrozenFeatureMetric", neighbors=20)
