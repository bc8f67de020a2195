"""Text to integers and back: bytes (exact) and words (as in the original PRERNK)."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.tokenizers.base import as_text
from jaxmodels.errors import UserError


@dataclass(frozen=True)
class ByteTokenizer:
    """The 256 bytes as 256 tokens: no vocabulary file, nothing unknown, one byte a token.

    Text is encoded as UTF-8. `decode_bytes(encode(x)) == x` for any bytes whatever.
    """

    name: str = "byte"
    vocab_size: int = 256

    def encode(self, text: str | bytes) -> np.ndarray:
        """(length,) uint8, a fresh writable array."""
        data = text.encode("utf-8") if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).copy()

    def byte_counts(self, text: str | bytes) -> None:
        """None: one byte behind each token."""
        return None

    def decode_bytes(self, tokens) -> bytes:
        """The exact bytes. Raises ValueError for an id outside 0..255."""
        ids = np.asarray(tokens)
        if ids.size and (ids.min() < 0 or ids.max() > 255):
            raise ValueError(f"byte ids must lie in 0..255, got {ids.min()}..{ids.max()}")
        return ids.astype(np.uint8).tobytes()

    def decode(self, tokens) -> str:
        """Text; bytes that are no valid UTF-8 become U+FFFD."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def streaming_decoder(self) -> StreamingDecoder:
        """A decoder for output that arrives a few tokens at a time."""
        return StreamingDecoder()

    def to_json(self) -> str:
        """`{"kind": "byte"}`."""
        return json.dumps({"kind": "byte"})


class StreamingDecoder:
    """Decodes bytes as they come and holds back an unfinished UTF-8 character.

    Concatenating everything returned, `finish()` included, equals `ByteTokenizer.decode` of all
    tokens.
    """

    def __init__(self):
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, tokens) -> str:
        """Return the text completed by these tokens (an int or a sequence of ints); may be ''."""
        return self._decoder.decode(bytes(np.atleast_1d(np.asarray(tokens, np.uint8))))

    def finish(self) -> str:
        """Return the rest: U+FFFD for an unfinished character, else ''."""
        return self._decoder.decode(b"", final=True)


# A word is a run of letters, digits and underscores; every other visible character stands alone.
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class WordTokenizer:
    """Whitespace-and-punctuation words, at most `max_tokens` of them, the rest `<unk>`.

    Lossy: case is kept, spacing is not, and `<unk>` stands for many words. Hence a bits-per-byte
    figure from it is *not* comparable with one of the byte tokenizer; per-token perplexity is what
    the original of PRERNK reported (SYSTEMS 1.2).

    Attributes:
      words: id -> word; words[0] = `<pad>`, words[1] = `<unk>`.
    """

    words: tuple[str, ...]
    name: str = "word"

    PAD = 0
    UNK = 1

    def __post_init__(self):
        if self.words[:2] != ("<pad>", "<unk>") or len(set(self.words)) != len(self.words):
            raise ValueError("words must be distinct and begin with '<pad>', '<unk>'")
        ids = {word: i for i, word in enumerate(self.words)}
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def fit(
        cls, texts: Iterable[str | bytes], *, max_tokens: int = 4096, min_freq: int = 1
    ) -> WordTokenizer:
        """Keep the most frequent words of the *training* texts (ties: alphabetical).

        Args:
          texts: training documents.
          max_tokens: size of the vocabulary, `<pad>` and `<unk>` included.
          min_freq: a word seen less often is `<unk>`.
        """
        if max_tokens < 3:
            raise UserError(f"max_tokens must be at least 3 (pad, unk, one word), got {max_tokens}")
        counts = Counter()
        for text in texts:
            counts.update(_WORD.findall(as_text(text)))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        kept = [word for word, count in ranked if count >= min_freq][: max_tokens - 2]
        return cls(("<pad>", "<unk>", *kept))

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.words)

    def encode(self, text: str | bytes) -> np.ndarray:
        """(words,) int32."""
        ids, unk = self._ids, self.UNK
        return np.array([ids.get(word, unk) for word in _WORD.findall(as_text(text))], np.int32)

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """(words,) int32: bytes of the word and of the white space before it.

        The last word also takes what follows it, so the sum is the text's byte length (0 words: 0).
        """
        text = as_text(text)
        ends = np.array([match.end() for match in _WORD.finditer(text)], np.int64)
        if ends.size == 0:
            return np.zeros(0, np.int32)
        ends[-1] = len(text)
        if not text.isascii():  # character offsets -> byte offsets
            codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
            widths = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
            ends = np.cumsum(widths)[ends - 1]
        return np.diff(ends, prepend=0).astype(np.int32)

    def decode(self, tokens) -> str:
        """Words joined by one space."""
        return " ".join(self.words[int(i)] for i in np.asarray(tokens).ravel())

    def to_json(self) -> str:
        """`{"kind": "word", "words": [...]}`."""
        return json.dumps({"kind": "word", "words": list(self.words)}, ensure_ascii=False)
