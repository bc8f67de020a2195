"""Byte-level byte-pair encoding, trained with the PyPI package `tokenizers`.

Lossless for any text. Ids 0-3 are PAD, EOS, UNK and SEP, as in `answers.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.tokenizers.base import Tokenizer, as_text
from jaxmodels.data.tokenizers.special import EOS, SPECIALS, until_eos
from jaxmodels.data.tokenizers.stream import ByteStream, byte_level
from jaxmodels.errors import UserError
from jaxmodels.extras import import_extra


@dataclass(frozen=True)
class BPETokenizer(Tokenizer):
    """A byte-level BPE tokenizer.

    Attributes:
      model: JSON description written by `tokenizers`.
    """

    model: str
    name: str = "bpe"

    @classmethod
    def fit(cls, texts: Iterable[str], *, vocab_size: int) -> BPETokenizer:
        """Learn merges from training texts, deterministically.

        Raises:
          UserError: vocab_size is too small for the 256 bytes and the four special ids.
        """
        if vocab_size < 256 + len(SPECIALS):
            raise UserError(
                f"max_tokens: BPE needs {256 + len(SPECIALS)} or more (256 bytes and "
                f"{len(SPECIALS)} special ids), got {vocab_size}"
            )
        library = import_extra("tokenizers")
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer.to_str())

    @property
    def vocab_size(self) -> int:
        """Return the number of ids."""
        return _built(self.model).get_vocab_size()

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return ids (length,) int32; a text that spells "<eos>" gives no special id."""
        ids = _built(self.model).encode(as_text(text), add_special_tokens=False).ids
        return np.array(ids, np.int32)

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """Return the UTF-8 bytes of each token, (length,) int32."""
        tokens = _built(self.model).encode(as_text(text), add_special_tokens=False).tokens
        return np.array([len(token) for token in tokens], np.int32)

    def decode(self, tokens) -> str:
        """Return the text up to the first EOS; special and unknown ids are skipped."""
        ids = [i for i in until_eos(tokens) if len(SPECIALS) <= i < self.vocab_size]
        return _built(self.model).decode(ids, skip_special_tokens=False)

    def stream(self, context=()) -> ByteStream:
        """Return a decoder token by token; what comes after an EOS is no text."""
        return ByteStream(self.token_bytes, context, EOS)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of an id, b"" for one that is no text."""
        known = len(SPECIALS) <= token < self.vocab_size
        return byte_level(_built(self.model).id_to_token(token)) if known else b""


@functools.lru_cache(maxsize=4)
def _built(model: str):
    library = import_extra("tokenizers")
    try:
        tokenizer = library.Tokenizer.from_str(model)
    except Exception as error:  # the library raises nothing more specific
        raise UserError(f"not a BPE tokenizer description ({error})") from error
    # Special ids are reserved for row layouts; a text that spells one must not produce it.
    tokenizer.encode_special_tokens = True
    return tokenizer
