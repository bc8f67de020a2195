"""Character tokenizer with a reserved block of control tokens, as in GroundThink."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxmodels.data.tokenizers.base import Tokenizer, as_text

CONTROL = ("pad", "unk", "bos", "eos", "system", "user", "assistant", "endofturn")
RESERVED = 32  # ids below it are control tokens, named or not yet
UNK = CONTROL.index("unk")
_CONTROL_TEXT = re.compile(r"<\|(" + "|".join(CONTROL) + r")\|>")


@dataclass(frozen=True)
class CharTokenizer(Tokenizer):
    """A tokenizer with one token per character of the training text; ids 0-31 are reserved.

    Control tokens are written like `<|user|>` in text. Characters that the training text lacks
    become `<|unk|>`. Shakespeare's 65 characters make a vocabulary of 97.

    Attributes:
      characters: character of each id from 32, sorted.
    """

    characters: str
    name: str = "char"
    unk: ClassVar[int] = UNK

    def __post_init__(self):
        if len(set(self.characters)) != len(self.characters):
            raise ValueError("characters must be distinct")
        control = [*CONTROL, *range(len(CONTROL), RESERVED)]
        texts = [*(f"<|{name}|>" for name in control), *self.characters]
        object.__setattr__(self, "_texts", texts)
        object.__setattr__(self, "_ids", {text: i for i, text in enumerate(texts)})

    @classmethod
    def fit(cls, texts: Iterable[str | bytes]) -> CharTokenizer:
        """Keep every character of the training texts, control tokens excluded."""
        seen = set()
        for text in texts:
            seen.update(_CONTROL_TEXT.sub("", as_text(text)))
        return cls("".join(sorted(seen)))

    @property
    def vocab_size(self) -> int:
        """Return the number of ids."""
        return len(self._texts)

    def unknown(self, text: str) -> list[str]:
        """Return the characters of a text that become `<|unk|>`."""
        return [piece for piece in _pieces(text) if piece not in self._ids]

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return ids (length,) int32."""
        return np.array([self._ids.get(piece, UNK) for piece in _pieces(as_text(text))], np.int32)

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """Return the UTF-8 bytes of each token, (length,) int32."""
        return np.array([len(piece.encode()) for piece in _pieces(as_text(text))], np.int32)

    def decode(self, tokens) -> str:
        """Return the text; unnamed reserved ids decode to e.g. `<|5|>`."""
        return "".join(self._texts[token] for token in np.asarray(tokens).ravel())


def _pieces(text: str) -> list[str]:
    """Return characters and control tokens in order."""
    pieces, at = [], 0
    for match in _CONTROL_TEXT.finditer(text):
        pieces += [*text[at : match.start()], match[0]]
        at = match.end()
    return [*pieces, *text[at:]]
