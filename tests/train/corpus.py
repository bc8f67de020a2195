"""A small text that has something to learn and is the same everywhere."""

import numpy as np

_WORDS = "the people of this union and its congress will have peace, labor and fair law".split()


def small_text(words: int = 6000) -> str:
    chosen = np.random.RandomState(0).randint(0, len(_WORDS), words)  # legacy stream: never changes
    lines = [" ".join(_WORDS[i] for i in chosen[n : n + 12]) + ".\n" for n in range(0, words, 12)]
    return "".join(lines)
