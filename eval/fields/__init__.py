"""Fields of local regressors: checks of their sketches and tensors, and other heads beside them."""
