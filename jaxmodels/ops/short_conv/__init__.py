"""Short causal depthwise convolution: XLA and Pallas TPU implementations."""
