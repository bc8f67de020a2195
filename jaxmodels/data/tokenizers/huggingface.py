"""Any `tokenizer.json` of Hugging Face's library `tokenizers`, read by that library.

Ids are the library's own: normalizer, pre-tokenizer, model and added tokens, but none of the
special tokens that a post-processor sets around a text. A text that spells a special token gives
its id, as chat templates need. Truncation and padding that the file asks for are left out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from jaxmodels.data.tokenizers.base import Tokenizer, as_text
from jaxmodels.data.tokenizers.stream import ByteStream, TextStream, byte_level
from jaxmodels.errors import UserError
from jaxmodels.extras import import_extra

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of a `tokenizer.json`.

    Attributes:
      model: content of that file, which travels unchanged.
    """

    model: str
    name: str = "huggingface"

    def __post_init__(self):
        object.__setattr__(self, "_built", _built(self.model))

    @property
    def vocab_size(self) -> int:
        """Return the largest id + 1, added tokens included; some ids below may be free."""
        return self._built.vocab_size

    @property
    def unk(self) -> int | None:
        """Return the id of unknown text, None for a vocabulary that has all bytes."""
        return self._built.unk

    @property
    def special(self) -> frozenset[int]:
        """Return the ids of special tokens, which `decode` leaves out."""
        return self._built.special

    def token_id(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary, None if there is none."""
        return self._built.library.token_to_id(token)

    def unknown(self, text: str) -> list[str]:
        """Return the pieces of a text that become `unk`."""
        if self.unk is None:
            return []
        encoded = self._encoded(text)
        pairs = zip(encoded.ids, encoded.offsets, strict=True)
        return [text[start:stop] for token, (start, stop) in pairs if token == self.unk]

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return ids (length,) int32."""
        return np.array(self._encoded(as_text(text)).ids, np.int32)

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """Return the UTF-8 bytes of each token, (length,) int32; their sum is the text's length.

        A character of several tokens counts for the first, and what the normalizer drops for the
        token after it, or the last.
        """
        text = as_text(text)
        ends = np.array([stop for _, stop in self._encoded(text).offsets], np.int64)
        if ends.size == 0:
            return np.zeros(0, np.int32)
        ends = np.maximum.accumulate(ends)
        ends[-1] = len(text)
        if not text.isascii():  # character offsets -> byte offsets
            widths = np.array([len(character.encode()) for character in text])
            ends = np.concatenate([[0], np.cumsum(widths)])[ends]
        return np.diff(ends, prepend=0).astype(np.int32)

    def decode(self, tokens) -> str:
        """Return the text; special tokens and ids of no token are skipped.

        The library's text, but bytes that are no UTF-8 do not spoil valid ones beside them.
        """
        ids = np.asarray(tokens, np.int64).ravel()
        text = self._text(ids.tolist())
        if self._built.fallback and "\ufffd" in text:
            stream = self.stream()
            return stream.push(ids) + stream.finish()
        return text

    def stream(self, context=()) -> ByteStream | TextStream:
        """Return a decoder token by token, see `Tokenizer.stream`."""
        if self._built.byte_level:
            return ByteStream(self._token_bytes, context)
        return TextStream(self._text, context, None, self._skipped, self._built.fallback)

    def token_bytes(self, token: int) -> bytes | None:
        """Return the bytes of an id, see `Tokenizer.token_bytes`."""
        return self._token_bytes(token) if self._built.byte_level else super().token_bytes(token)

    def to_json(self) -> str:
        """Return the content of the file."""
        return self.model

    @classmethod
    def described(cls) -> list[str]:
        """Return no names: the file is the description."""
        return []

    def _encoded(self, text: str):
        return self._built.library.encode(text, add_special_tokens=False)

    def _skipped(self, token: int) -> bool:
        return not 0 <= token < self.vocab_size or token in self.special

    def _text(self, ids: list[int]) -> str:
        ids = [token for token in ids if not self._skipped(token)]
        return self._built.library.decode(ids, skip_special_tokens=False)

    def _token_bytes(self, token: int) -> bytes:
        text = None if self._skipped(token) else self._built.library.id_to_token(token)
        return b"" if text is None else byte_level(text)


def _built(model: str) -> SimpleNamespace:
    """Read a file's content; raise UserError if it is no tokenizer of the library."""
    package = import_extra("tokenizers")
    try:
        fields = json.loads(model)
        library = package.Tokenizer.from_str(model)
        vocabulary = library.get_vocab(with_added_tokens=True)
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"not a tokenizer.json of the library tokenizers ({reason:.200})"
        ) from error
    if not vocabulary:
        raise UserError("a tokenizer.json with an empty vocabulary")
    library.no_truncation()
    library.no_padding()
    decoder = fields.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    kinds = [step.get("type") for step in steps]
    fallback = {}
    if "ByteFallback" in kinds:
        found = ((_BYTE_TOKEN.fullmatch(token), i) for token, i in vocabulary.items())
        fallback = {i: int(match[1], 16) for match, i in found if match}
    added = library.get_added_tokens_decoder()
    unk = fields["model"].get("unk_token")
    if fields["model"].get("type") == "Unigram":
        unk = fields["model"].get("unk_id")
        unk = None if unk is None else library.id_to_token(unk)
    return SimpleNamespace(
        library=library,
        vocab_size=max(vocabulary.values()) + 1,
        special=frozenset(i for i, token in added.items() if token.special),
        unk=None if unk is None else vocabulary.get(unk),
        byte_level=kinds == ["ByteLevel"],
        fallback=fallback,
    )
