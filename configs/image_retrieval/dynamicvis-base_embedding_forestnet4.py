_base_ = ["_base_embedding.py", "../_base_/datasets/forestnet4_retrieval.py"]
