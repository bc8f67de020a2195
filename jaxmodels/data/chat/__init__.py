"""Conversations as bytes: exchanges, their rows, corpora and labels."""
