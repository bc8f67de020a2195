"""Building blocks of the ops: chunking, head packing, triangular inverses."""
