"""Sweeps, entries x seeds, and the answers in their differences: `python -m eval.sweep`."""
