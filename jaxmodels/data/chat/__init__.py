"""Conversations: exchanges, their rows of bytes or other tokens, corpora and labels."""
