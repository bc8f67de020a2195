"""Training: one pure step, a loop that knows no model, checkpoints that resume bit for bit."""
