"""The HTML report of a run: page, figures, and inspection of the model."""
