"""Tasks: from a config to a corpus, a training stream and validation batches."""
