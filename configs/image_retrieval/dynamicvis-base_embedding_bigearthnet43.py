_base_ = ["_base_embedding.py", "../_base_/datasets/bigearthnet43_retrieval.py"]
