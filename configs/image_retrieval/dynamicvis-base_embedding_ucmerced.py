_base_ = ["_base_embedding.py", "../_base_/datasets/ucmerced_retrieval.py"]
