"""Training: a pure step, a model-agnostic loop, checkpoints that resume bit for bit."""
