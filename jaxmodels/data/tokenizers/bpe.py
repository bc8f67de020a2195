"""Byte-pair encoding by the PyPI package `tokenizers`, trained on the texts at hand (L-23).

Byte level: any text is encoded without loss. Ids 0-3 are PAD, EOS, UNK and SEP, as in
`answers.py`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.tokenizers.base import as_text
from jaxmodels.data.tokenizers.special import EOS, SPECIALS
from jaxmodels.errors import UserError
from jaxmodels.extras import import_extra


@dataclass(frozen=True)
class BPETokenizer:
    """Byte-level BPE: frequent byte sequences as tokens.

    Attributes:
      model: the library's own description, JSON.
    """

    model: str
    name: str = "bpe"

    @classmethod
    def fit(cls, texts: Iterable[str], *, vocab_size: int) -> BPETokenizer:
        """Learn the pieces from *training* texts; the same texts give the same pieces.

        Raises:
          UserError: a vocabulary too small for the 256 bytes and the four special ids.
        """
        if vocab_size < 256 + len(SPECIALS):
            raise UserError(
                f"max_tokens: BPE needs {256 + len(SPECIALS)} or more (256 bytes and "
                f"{len(SPECIALS)} special ids), got {vocab_size}"
            )
        library = import_extra("tokenizers")
        made = library.Tokenizer(library.models.BPE())
        made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        made.train_from_iterator(texts, trainer)
        return cls(made.to_str())

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return _built(self.model).get_vocab_size()

    def encode(self, text: str | bytes, add_eos: bool = False) -> np.ndarray:
        """(length,) int32. "<eos>" and its like in a text are text."""
        ids = _built(self.model).encode(as_text(text), add_special_tokens=False).ids
        return np.array(ids + [EOS] * add_eos, np.int32)

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """(length,) int32: bytes of UTF-8 behind each token."""
        tokens = _built(self.model).encode(as_text(text), add_special_tokens=False).tokens
        return np.array([len(token) for token in tokens], np.int32)

    def decode(self, tokens) -> str:
        """Return the text up to the first EOS; special and unknown ids decode to nothing."""
        ids = [int(token) for token in np.asarray(tokens).ravel()]
        ids = ids[: ids.index(EOS)] if EOS in ids else ids
        known = [i for i in ids if len(SPECIALS) <= i < self.vocab_size]
        return _built(self.model).decode(known, skip_special_tokens=False)

    def to_json(self) -> str:
        """`{"kind": "bpe", "model": "..."}`."""
        return json.dumps({"kind": self.name, "model": self.model}, ensure_ascii=False)


@functools.lru_cache(maxsize=4)
def _built(model: str):
    library = import_extra("tokenizers")
    try:
        made = library.Tokenizer.from_str(model)
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"no BPE tokenizer: its description is broken ({error})") from error
    # Special ids are for the rows' own marks; a text that spells one out must not become it.
    made.encode_special_tokens = True
    return made
