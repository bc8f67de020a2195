"""Files of a run: checkpoints, metric logs and the progress line."""
