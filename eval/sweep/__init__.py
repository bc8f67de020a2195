"""A matrix of runs, entries x seeds, and what its differences answer: `python -m eval.matrix`."""
