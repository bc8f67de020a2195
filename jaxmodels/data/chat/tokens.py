"""Tokenizers of conversations: bytes, or fitted on the exchanges of the training split.

    byte    256 bytes; the marks are three that UTF-8 never uses
    char    a character of the training split each
    bpe     byte-pair encoding: frequent digits in a row become one token
    a file  a tokenizer.json, or "rwkv_world", see `tokenizers.folder.read_tokenizer`

For text in ASCII, "char" differs from "byte" in the size of its vocabulary alone.
"""

import dataclasses

from jaxmodels.cli import choose_from
from jaxmodels.data.chat.exchange import ChatCorpus, one_line, prompt_of
from jaxmodels.data.tokenizers.bpe import BPETokenizer
from jaxmodels.data.tokenizers.char import CharTokenizer
from jaxmodels.data.tokenizers.folder import is_read, read_tokenizer
from jaxmodels.data.tokenizers.marked import MARKS, MarkedTokenizer
from jaxmodels.data.tokenizers.special import SPECIALS
from jaxmodels.data.tokenizers.unknown import Unknown
from jaxmodels.errors import UserError

TOKENIZERS = ("byte", "char", "bpe")
FEWEST = 256 + len(SPECIALS) + MARKS  # of BPE: bytes, special ids and marks


def check_tokenizer(name: str, max_tokens: int) -> None:
    """Raise UserError unless `fitted` can fit this tokenizer."""
    if name not in TOKENIZERS and not is_read(name):
        raise UserError(
            f"config.data.tokenizer: conversations are not read with {name!r}"
            f"{choose_from(TOKENIZERS)}"
        )
    if name == "bpe" and max_tokens < FEWEST:
        raise UserError(
            f"config.data.max_tokens: 'bpe' needs {FEWEST} or more (256 bytes, {len(SPECIALS)} "
            f"special ids and {MARKS} marks), got {max_tokens}"
        )


def fitted(corpus: ChatCorpus, name: str, max_tokens: int) -> ChatCorpus:
    """Return a corpus with another tokenizer, fitted on its training split as rows hold it.

    Args:
      corpus: the exchanges.
      name: one of `TOKENIZERS`, or what `read_tokenizer` reads.
      max_tokens: largest vocabulary of "bpe", marks included.

    Raises:
      UserError: see `check_tokenizer`.
    """
    check_tokenizer(name, max_tokens)
    if name == "byte":
        return corpus
    if name not in TOKENIZERS:
        return dataclasses.replace(corpus, tokenizer=MarkedTokenizer(read_tokenizer(name)))
    texts = (text for x in corpus.train for text in (prompt_of(x.turns), one_line(x.response)))
    inner = (
        CharTokenizer.fit(texts)
        if name == "char"
        else BPETokenizer.fit(texts, vocab_size=max_tokens - MARKS)
    )
    return dataclasses.replace(corpus, tokenizer=MarkedTokenizer(inner))


def unknown_notes(corpus: ChatCorpus, max_unused: float) -> tuple[str, ...]:
    """Return lines on the symbols of each split that the tokenizer does not know.

    Raises:
      UserError: they are more than `max_unused` of all.
    """
    notes: tuple[str, ...] = ()
    for name in ("train", "valid", "test"):
        unknown = Unknown(corpus.tokenizer)
        for x in getattr(corpus, name):
            for text in (*x.turns, x.response):
                unknown.read(text)
        unknown.check(name, max_unused)
        notes += unknown.notes(name)
    return notes
