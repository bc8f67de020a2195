"""Tasks of the Language Model Evaluation Harness (PyPI `lm-eval`)."""
