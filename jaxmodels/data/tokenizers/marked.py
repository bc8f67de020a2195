"""A tokenizer whose last three ids mark the structure of a conversation."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.stream import FewerIds

MARKS = 3  # the last ids: end of a response, its beginning, padding


@dataclass(frozen=True)
class MarkedTokenizer(Tokenizer):
    """Another tokenizer and three ids after its own, which no text has.

    Bytes need none: UTF-8 never uses 0xFD to 0xFF.

    Attributes:
      inner: the tokenizer of text; `name` is its name.
    """

    inner: Tokenizer

    @property
    def name(self) -> str:
        """Return the name of the tokenizer of text."""
        return self.inner.name

    @property
    def vocab_size(self) -> int:
        """Return the number of ids, marks included."""
        return self.inner.vocab_size + MARKS

    @property
    def unk(self) -> int | None:
        """Return the id of unknown text, see `Tokenizer`."""
        return self.inner.unk

    def unknown(self, text: str) -> list[str]:
        """Return the unknown symbols of a text, see `Tokenizer`."""
        return self.inner.unknown(text)

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return ids (length,) int32, none of them a mark."""
        return self.inner.encode(text)

    def byte_counts(self, text: str | bytes) -> np.ndarray | None:
        """Return the bytes of each id, see `Tokenizer`."""
        return self.inner.byte_counts(text)

    def decode(self, tokens) -> str:
        """Return the text; marks are skipped."""
        ids = np.asarray(tokens).ravel()
        return self.inner.decode(ids[ids < self.inner.vocab_size])

    def stream(self, context=()) -> FewerIds:
        """Return a decoder token by token; marks are skipped."""
        ids = np.asarray(context, np.int64).ravel()
        limit = self.inner.vocab_size
        return FewerIds(self.inner.stream(ids[ids < limit]), limit)

    def token_bytes(self, token: int) -> bytes | None:
        """Return the bytes of an id, b"" for a mark."""
        return self.inner.token_bytes(token) if token < self.inner.vocab_size else b""

    def to_json(self) -> str:
        """Return `{"kind": "marked", "inner": description}`."""
        return json.dumps({"kind": "marked", "inner": json.loads(self.inner.to_json())})
