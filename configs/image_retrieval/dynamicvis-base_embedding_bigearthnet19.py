_base_ = ["_base_embedding.py", "../_base_/datasets/bigearthnet19_retrieval.py"]
