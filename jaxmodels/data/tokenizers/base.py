"""The interface of a tokenizer."""

from __future__ import annotations

import dataclasses
import json
from typing import ClassVar, Protocol

import numpy as np

from jaxmodels.data.tokenizers.stream import DecodeStream, TextStream


class Tokenizer(Protocol):
    """The interface that the data path needs, of a dataclass; ids are in 0..vocab_size - 1."""

    name: str
    vocab_size: int
    unk: ClassVar[int | None] = None  # id of what the tokenizer does not know; None = it knows all

    def unknown(self, text: str) -> list[str]:
        """Return the symbols of a text that become `unk`, in order, repeated as in the text."""
        return []

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return the ids of a text, (length,) integers."""
        ...

    def byte_counts(self, text: str | bytes) -> np.ndarray | None:
        """Return the bytes of each id of `encode(text)`, (length,) int32; None = one each."""
        ...

    def decode(self, tokens) -> str:
        """Return the text of ids."""
        ...

    def stream(self, context=()) -> DecodeStream:
        """Return a decoder token by token: its pieces, joined, are the text of the ids given.

        Args:
          context: ids before them, e.g. of a prompt: the text is what continues theirs, with the
            space between two words. () = the text of the ids alone.
        """
        return TextStream(self.decode, context)

    def token_bytes(self, token: int) -> bytes | None:
        """Return the bytes that an id stands for; None if they are not known for it alone."""
        text = self.decode([token])
        return None if "\ufffd" in text else text.encode()

    def to_json(self) -> str:
        """Return `{"kind": name, fields ...}`, which `tokenizer_from_json` reads back."""
        values = {name: getattr(self, name) for name in self.described()}
        return json.dumps({"kind": self.name, **values}, ensure_ascii=False)

    @classmethod
    def described(cls) -> list[str]:
        """Return the names of the fields in the description."""
        return [f.name for f in dataclasses.fields(cls) if f.name not in ("name", "vocab_size")]


def as_text(text: str | bytes) -> str:
    """Decode UTF-8 bytes; invalid ones become U+FFFD."""
    return text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
