"""Decoding token by token: the pieces, joined, are the text of all ids.

    stream = tokenizer.stream(context=prompt_ids)
    for token in drawn:
        print(stream.push(token), end="", flush=True)
    print(stream.finish())

A character whose bytes are spread over tokens comes with the last of them; `finish` gives U+FFFD
for one that never ends. `tokenizers.decoders.DecodeStream` does less: it raises an error for bytes
that are no UTF-8, loses the space after a special token, and keeps what is pending at the end.
"""

from __future__ import annotations

import codecs
import functools
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

CONTEXT = 4  # ids that a text decoder sees before a new one
LONGEST = 64  # ids held back for their text to become whole
REMEMBERED = 32  # ids of the context that matter


def byte_level(token: str) -> bytes:
    """Return the bytes of a token of a byte-level vocabulary, or its UTF-8 if it is no such token.

    Printable bytes of Latin-1 stand for themselves, the others for the characters from 256 on, as
    in GPT-2's bytes_to_unicode.
    """
    symbols = _symbols()
    if all(symbol in symbols for symbol in token):
        return bytes(symbols[symbol] for symbol in token)
    return token.encode()  # an added token, e.g. several spaces


@functools.cache
def _symbols() -> dict[str, int]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {chr(byte): byte for byte in printable}
    return symbols | {chr(256 + i): byte for i, byte in enumerate(others)}


class DecodeStream(Protocol):
    """The text of ids that arrive one by one, or a few at a time."""

    def push(self, tokens) -> str:
        """Return the text that one id, or an array of ids, completes; often ""."""
        ...

    def finish(self) -> str:
        """Return the rest: U+FFFD for a character that is not complete, else ""."""
        ...


class _Stream:
    """Ids one by one, up to one that ends the text; the context is read and its text dropped."""

    def __init__(self, context, end: int | None):
        self._end, self._ended = None, False
        self.push(np.asarray(context, np.int64).ravel()[-REMEMBERED:])
        self._end = end

    def push(self, tokens) -> str:
        """Return the text that one id, or an array of ids, completes."""
        pieces = []
        for token in np.asarray(tokens, np.int64).ravel().tolist():
            self._ended = self._ended or token == self._end
            if not self._ended:
                pieces.append(self._piece(token))
        return "".join(pieces)


class ByteStream(_Stream):
    """A stream of ids that stand for bytes, whatever is around them.

    Args:
      token_bytes: bytes of an id; b"" for one that is no text.
      context: ids before the text.
      end: id that ends it.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], context=(), end: int | None = None):
        self._bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        super().__init__(context, end)

    def _piece(self, token: int) -> str:
        return self._decoder.decode(self._bytes(token))

    def finish(self) -> str:
        """Return U+FFFD for a character that is not complete, else ""."""
        return self._decoder.decode(b"", final=True)


class TextStream(_Stream):
    """A stream of ids whose text depends on those just before, e.g. the space between words.

    The text of an id is what it adds to that of the ids before it. Of ids that stand for single
    bytes, those of one character are decoded together; invalid bytes become U+FFFD alone, where a
    decoder of the library `tokenizers` gives up the valid characters beside them too.

    Args:
      decode: text of ids.
      context: ids before the text.
      end: id that ends it.
      skipped: whether an id is no text. It is kept from `decode`: a first id loses its space.
      fallback: byte of each id that stands for a single one (byte fallback).
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        context=(),
        end: int | None = None,
        skipped: Callable[[int], bool] = lambda token: False,
        fallback: Mapping[int, int] | None = None,
    ):
        self._decode, self._skipped, self._byte_of = decode, skipped, fallback or {}
        self._id_of = {byte: token for token, byte in self._byte_of.items()}
        self._units: list[list[int]] = []  # the last ids read, those of a character together
        self._before = ""  # their text so far
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        super().__init__(context, end)

    def _piece(self, token: int) -> str:
        if self._skipped(token):
            return ""
        byte = self._byte_of.get(token)
        if byte is None:
            return self._characters(self._utf8.decode(b"", final=True)) + self._added([token])
        return self._characters(self._utf8.decode(bytes([byte])))

    def _characters(self, text: str) -> str:
        """Return the text of characters that came as bytes: e.g. a space may be dropped."""
        pieces = []
        for character in text:
            invalid = character == "\ufffd"
            known = self._ids_of("?" if invalid else character)  # a stand-in among the ids
            piece = self._added(known) if known else self._rest() + character
            pieces.append(piece[:-1] + character if invalid else piece)
        return "".join(pieces)

    def _ids_of(self, character: str) -> list[int]:
        ids = [self._id_of.get(byte) for byte in character.encode()]
        return [] if None in ids else ids

    def _added(self, tokens: list[int]) -> str:
        """Return what ids add to the text; "" while it ends in an incomplete character."""
        self._units.append(tokens)
        text = self._text(self._units)
        if text.endswith("\ufffd") and len(self._units) < LONGEST:
            return ""
        return self._move(text)

    def _text(self, units: list[list[int]]) -> str:
        return self._decode([token for unit in units for token in unit])

    def _move(self, text: str) -> str:
        piece = text[len(self._before) :]
        kept = self._units[-CONTEXT:]
        before = self._text(kept)
        if before or len(self._units) >= LONGEST:
            self._units, self._before = kept, before
        else:  # alone, they would lose a space that they have here
            self._before = text
        return piece

    def finish(self) -> str:
        """Return the rest, with U+FFFD for a character that is not complete."""
        return self._characters(self._utf8.decode(b"", final=True)) + self._rest()

    def _rest(self) -> str:
        return self._move(self._text(self._units)) if self._units else ""


class FewerIds:
    """A stream of another's ids, of which those from `limit` on are no text."""

    def __init__(self, stream: DecodeStream, limit: int):
        self._stream, self._limit = stream, limit

    def push(self, tokens) -> str:
        """Return the text that one id, or an array of ids, completes."""
        ids = np.asarray(tokens, np.int64).ravel()
        return self._stream.push(ids[ids < self._limit])

    def finish(self) -> str:
        """Return the rest of the other stream."""
        return self._stream.finish()
