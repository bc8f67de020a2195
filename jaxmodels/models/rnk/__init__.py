"""RNK: bytes in chunks, a Mamba over the chunks, a plan for each, and a GRU that writes it out."""
