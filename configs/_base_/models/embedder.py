# A frozen backbone, its last map averaged over the image: image retrieval, and classification of frozen features. The
# leaf config adds the backbone. Images come in as RGB, 0 to 255.
model = dict(
    type="dynamicvis.Embedder",
    data_preprocessor=dict(
        type="ClsDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
)
