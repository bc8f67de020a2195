"""Tokenizers of HRLM: characters, and frequent words with characters as fallback.

Ids 0-3 are PAD, EOS, UNK and SEP in each.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.tokenizers.base import Tokenizer, as_text
from jaxmodels.data.tokenizers.special import EOS, SPECIALS, UNK, until_eos
from jaxmodels.data.tokenizers.stream import TextStream
from jaxmodels.data.words import pattern
from jaxmodels.errors import UserError

SEED_CHARSET = string.ascii_letters + string.digits + " .,!?;:-()[]{}'\"\n"  # 79: vocabulary of 83
TAB_CHARSET = SEED_CHARSET + "\t"  # vocabulary of 84
# The printable half of Latin-1: Western European languages without loss.
LATIN_CHARSET = TAB_CHARSET + "".join(
    c for c in map(chr, [*range(33, 127), *range(161, 256)]) if c not in TAB_CHARSET and c != "\xad"
)


class _AnswerTokenizer(Tokenizer):
    """Pieces of text with ids from 4; the text between them becomes UNK."""

    charset: str
    unk = UNK

    def _number(self, words: tuple[str, ...] = ()) -> None:
        if not self.charset or len(set(self.charset)) != len(self.charset):
            raise UserError("charset: must be non-empty, and its characters distinct")
        texts = (*self.charset, *words)
        object.__setattr__(self, "_texts", texts)
        object.__setattr__(self, "_ids", {text: len(SPECIALS) + i for i, text in enumerate(texts)})
        object.__setattr__(self, "_known", frozenset(self.charset))

    def _pieces(self, text: str) -> Iterable[str]:
        return text

    @property
    def vocab_size(self) -> int:
        """Return the number of ids."""
        return len(SPECIALS) + len(self._texts)

    def unknown(self, text: str) -> list[str]:
        """Return the characters of a text that become UNK; those of known words do not."""
        if self._known.issuperset(text):
            return []
        return [piece for piece in self._pieces(text) if piece not in self._ids]

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return ids (length,) int32."""
        return np.array([self._ids.get(p, UNK) for p in self._pieces(as_text(text))], np.int32)

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """Return the UTF-8 bytes of each token, (length,) int32."""
        return np.array([len(p.encode()) for p in self._pieces(as_text(text))], np.int32)

    def decode(self, tokens) -> str:
        """Return the text up to the first EOS; special and unknown ids are skipped."""
        ids = [i - len(SPECIALS) for i in until_eos(tokens)]
        return "".join(self._texts[i] for i in ids if 0 <= i < len(self._texts))

    def stream(self, context=()) -> TextStream:
        """Return a decoder token by token; what comes after an EOS is no text."""
        return TextStream(self.decode, context, EOS, lambda token: token < len(SPECIALS))


@dataclass(frozen=True)
class AnswerCharTokenizer(_AnswerTokenizer):
    """A tokenizer with one token per character of a fixed set; other characters become UNK.

    Attributes:
      charset: character of each id from 4.
    """

    charset: str = LATIN_CHARSET
    name: str = "answer_char"

    def __post_init__(self):
        self._number()


def _pieces_of(text: str) -> list[str]:
    return pattern(r" ?[\wMARKS]+|[\s\S]", text).findall(text)


@dataclass(frozen=True)
class HybridTokenizer(_AnswerTokenizer):
    """A tokenizer of frequent words, and characters for the rest; lossless within its charset.

    A word includes the space before it: " word" and "word" are two tokens.

    Attributes:
      words: most frequent first, each of two characters or more; their ids come last.
      charset: see `AnswerCharTokenizer`.
    """

    words: tuple[str, ...]
    charset: str = LATIN_CHARSET
    name: str = "hybrid"

    def __post_init__(self):
        object.__setattr__(self, "words", tuple(self.words))
        if len(set(self.words)) != len(self.words) or any(len(word) < 2 for word in self.words):
            raise UserError("words: must be distinct, with two characters or more")
        self._number(self.words)

    @classmethod
    def fit(cls, texts: Iterable[str], *, max_words: int) -> HybridTokenizer:
        """Keep the most frequent words of the training texts, ties in alphabetical order."""
        counts = Counter(p for text in texts for p in _pieces_of(as_text(text)) if len(p) > 1)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(tuple(word for word, _ in ranked[:max_words]))

    def _pieces(self, text: str) -> list[str]:
        return [x for p in _pieces_of(text) for x in ([p] if p in self._ids else p)]
