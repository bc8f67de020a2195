"""Sweeps of entries x seeds and their statistics: `python -m eval.sweep`."""
