"""The HTML report of a run: page, figures, and a look inside the model."""
