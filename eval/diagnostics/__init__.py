"""States, components, probes and gates of a trained model: `python -m eval.diagnostics`."""
