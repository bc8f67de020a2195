"""Normalisation over the last axis as Pallas TPU kernels."""
