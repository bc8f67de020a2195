"""Tokenizers: bytes, words, characters, BPE, answers and grids."""
