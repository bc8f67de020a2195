"""Text corpora: documents, splits, and the streams of batches read from them."""
