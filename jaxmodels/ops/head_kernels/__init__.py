"""Pallas TPU kernels of recurrences with a matrix state per head, given a chunk's arithmetic."""
