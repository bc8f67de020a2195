"""HFT: the whole context as one sketch, and a field of local regressors that predicts from it."""
