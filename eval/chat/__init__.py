"""Conversation with a trained model of bytes: `python -m eval.chat`."""
