"""Image retrieval and the evaluation of frozen features, in plain torch.

Embedding: the backbone's last map, averaged over its pixels (arXiv 2503.16426, section 4.3.7). Search: `RetrievalIndex`
over float embeddings or over binary codes of them. Evaluation: `evaluate_retrieval`, `knn_predict`, `linear_probe`.
"""

from dynamicvis.retrieval.codes import binary_codes
from dynamicvis.retrieval.embedding import embed, spatial_mean
from dynamicvis.retrieval.evaluation import evaluate_retrieval, mean_average_precision, mean_precision, relevance
from dynamicvis.retrieval.index import RetrievalIndex
from dynamicvis.retrieval.probing import knn_predict, linear_probe

__all__ = [
    "RetrievalIndex",
    "binary_codes",
    "embed",
    "evaluate_retrieval",
    "knn_predict",
    "linear_probe",
    "mean_average_precision",
    "mean_precision",
    "relevance",
    "spatial_mean",
]
