# Features of a frozen backbone: queries against a database. A data set adds both.
test_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
    dict(type="Resize", scale=(512, 512), interpolation="bilinear"),
    dict(type="PackInputs", meta_keys=("img_path", "role")),
]
test_dataloader = dict(
    batch_size=16,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ConcatDataset"),
)
test_evaluator = dict(type="dynamicvis.RetrievalMetric", k=20, codes=("float", "binary", 64))
test_cfg = dict(type="TestLoop")
model_card = dict(overlap=0, license="that of the checkpoint")
