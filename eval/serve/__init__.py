"""A server of a trained model with the API of OpenAI: `python -m eval.serve`."""
