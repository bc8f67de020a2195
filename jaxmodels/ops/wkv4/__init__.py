"""The RWKV-4 recurrence: chunked XLA and Pallas TPU implementations."""
