"""Relation labels for real text, found with a lexicon."""
