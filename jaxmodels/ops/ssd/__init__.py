"""State-space duality (Mamba-2): chunked XLA and Pallas TPU implementations."""
