"""The interface of a tokenizer."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Tokenizer(Protocol):
    """The interface that the data path needs: `vocab_size` ids, 0 <= id < vocab_size."""

    name: str
    vocab_size: int

    def encode(self, text: str | bytes) -> np.ndarray:
        """Text to (length,) integer ids."""
        ...

    def byte_counts(self, text: str | bytes) -> np.ndarray | None:
        """(length,) int32 bytes of text behind each id of `encode(text)`; None = one each."""
        ...

    def decode(self, tokens) -> str:
        """Ids to text."""
        ...

    def to_json(self) -> str:
        """Return a description from which `tokenizer_from_json` builds it again."""
        ...


def as_text(text: str | bytes) -> str:
    """Return text, UTF-8 bytes decoded; invalid ones become U+FFFD."""
    return text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
