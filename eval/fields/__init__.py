"""Fields of local regressors: checks of their sketches and tensors, and other heads beside them."""

HEADS = ("softmax", "knn", "ridge")  # the slow ones: see eval/fields/heads.py
