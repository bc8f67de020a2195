"""Byte tokenizer (lossless) and word tokenizer (as in the original PRERNK)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.tokenizers.base import Tokenizer, as_text
from jaxmodels.data.tokenizers.stream import ByteStream
from jaxmodels.data.words import pattern
from jaxmodels.errors import UserError


@dataclass(frozen=True)
class ByteTokenizer(Tokenizer):
    """A tokenizer with the 256 bytes of UTF-8 as tokens.

    `decode_bytes(encode(x)) == x` for any bytes.
    """

    name: str = "byte"
    vocab_size: int = 256

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return ids (length,) uint8, a new writable array."""
        data = text.encode("utf-8") if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).copy()

    def byte_counts(self, text: str | bytes) -> None:
        """Return None: every token is one byte."""
        return None

    def decode_bytes(self, tokens) -> bytes:
        """Return the exact bytes; raise ValueError for an id outside 0..255."""
        ids = np.asarray(tokens)
        if ids.size and (ids.min() < 0 or ids.max() > 255):
            raise ValueError(f"byte ids must be in 0..255, got {ids.min()}..{ids.max()}")
        return ids.astype(np.uint8).tobytes()

    def decode(self, tokens) -> str:
        """Return the text; invalid UTF-8 becomes U+FFFD."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Return the byte."""
        return self.decode_bytes([token])

    def stream(self, context=()) -> ByteStream:
        """Return a decoder token by token; `push` raises ValueError for an id outside 0..255."""
        return ByteStream(self.decode_bytes, context)


def _words(text: str) -> Iterator[re.Match]:
    """Find words: runs of letters, digits and underscores, and other visible symbols one by one."""
    return pattern(r"[\wMARKS]+|[^\w\sMARKS]", text).finditer(text)


@dataclass(frozen=True)
class WordTokenizer(Tokenizer):
    """A tokenizer of words split at white space and punctuation; unknown words become `<unk>`.

    Lossy: spacing is dropped and `<unk>` stands for many words. Hence its bits per byte are *not*
    comparable with those of the byte tokenizer; the original PRERNK reported per-token perplexity.

    Attributes:
      words: word of each id; words[0] = `<pad>`, words[1] = `<unk>`.
    """

    words: tuple[str, ...]
    name: str = "word"

    PAD = 0
    UNK = unk = 1

    def __post_init__(self):
        object.__setattr__(self, "words", tuple(self.words))
        if self.words[:2] != ("<pad>", "<unk>") or len(set(self.words)) != len(self.words):
            raise ValueError("words must be distinct and begin with '<pad>', '<unk>'")
        ids = {word: i for i, word in enumerate(self.words)}
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def fit(
        cls, texts: Iterable[str | bytes], *, max_tokens: int = 4096, min_freq: int = 1
    ) -> WordTokenizer:
        """Keep the most frequent words of the training texts, ties in alphabetical order.

        Args:
          texts: training documents.
          max_tokens: size of the vocabulary, `<pad>` and `<unk>` included.
          min_freq: words that occur less often become `<unk>`.
        """
        if max_tokens < 3:
            raise UserError(f"max_tokens must be at least 3 (pad, unk, one word), got {max_tokens}")
        counts = Counter()
        for text in texts:
            counts.update(word[0] for word in _words(as_text(text)))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        kept = [word for word, count in ranked if count >= min_freq][: max_tokens - 2]
        return cls(("<pad>", "<unk>", *kept))

    @property
    def vocab_size(self) -> int:
        """Return the number of ids."""
        return len(self.words)

    def unknown(self, text: str) -> list[str]:
        """Return the words of a text that become `<unk>`."""
        return [word[0] for word in _words(text) if word[0] not in self._ids]

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return ids (words,) int32."""
        ids, unk = self._ids, self.UNK
        return np.array([ids.get(word[0], unk) for word in _words(as_text(text))], np.int32)

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """Return the UTF-8 bytes of each word and the white space before it, (words,) int32.

        The last word includes the rest of the text, so that the sum is the text's length in bytes.
        """
        text = as_text(text)
        ends = np.array([match.end() for match in _words(text)], np.int64)
        if ends.size == 0:
            return np.zeros(0, np.int32)
        ends[-1] = len(text)
        if not text.isascii():  # character offsets -> byte offsets
            codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
            widths = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
            ends = np.cumsum(widths)[ends - 1]
        return np.diff(ends, prepend=0).astype(np.int32)

    def decode(self, tokens) -> str:
        """Return the words joined by spaces."""
        return " ".join(self.words[int(i)] for i in np.asarray(tokens).ravel())
