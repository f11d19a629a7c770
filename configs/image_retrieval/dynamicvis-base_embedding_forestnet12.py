_base_ = ["_base_embedding.py", "../_base_/datasets/forestnet12_retrieval.py"]
