"""Question-answer pairs: files, row layout, batches, and the HRM dataset format."""
