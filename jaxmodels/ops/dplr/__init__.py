"""The diagonal-plus-low-rank recurrence of RWKV-7: chunked XLA and Pallas TPU."""
