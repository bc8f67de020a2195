"""Documents and corpora: tokens in memory, and how many bytes they stand for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxmodels.data.random import random_words
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.errors import UserError


@dataclass(frozen=True)
class Document:
    """One document: a stretch of text whose first token nothing predicts.

    Attributes:
      name: where it comes from, for messages and reports.
      tokens: (length,) uint8 for bytes, int32 for words.
      byte_counts: (length,) int32, bytes of text behind each token; None = one byte a token.
      labels: named arrays aligned with `tokens` (leading axis = length), int32, -1 = no label.
        They reach the batch under their name, at the position of the *input* token.
    """

    name: str
    tokens: np.ndarray
    byte_counts: np.ndarray | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        for name, values in self.labels.items():
            if len(values) != len(self.tokens):
                raise ValueError(
                    f"{self.name}: label {name!r} has {len(values)} rows for "
                    f"{len(self.tokens)} tokens"
                )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_bytes(self) -> int:
        """Bytes of text in this document."""
        return len(self.tokens) if self.byte_counts is None else int(self.byte_counts.sum())

    def slice(self, start: int, stop: int) -> Document:
        """Return tokens [start, stop) as a document of their own."""
        return Document(
            f"{self.name}[{start}:{stop}]",
            self.tokens[start:stop],
            None if self.byte_counts is None else self.byte_counts[start:stop],
            {name: values[start:stop] for name, values in self.labels.items()},
        )


@dataclass(frozen=True)
class Corpus:
    """Three splits of one collection, and the tokenizer that made them.

    Attributes:
      name: short name for reports.
      train, valid, test: documents of each split; no text is in two of them.
      tokenizer: what turned text into tokens.
      split: one sentence stating how the splits were made.
    """

    name: str
    train: tuple[Document, ...]
    valid: tuple[Document, ...]
    test: tuple[Document, ...]
    tokenizer: Tokenizer
    split: str

    def fingerprint(self) -> str:
        """SHA-256 over every token of every split: changes when the data of a run changes."""
        digest = hashlib.sha256()
        for split in (self.train, self.valid, self.test):
            digest.update(f"split:{len(split)};".encode())
            for document in split:
                digest.update(f"{document.tokens.dtype.str}:{len(document)};".encode())
                digest.update(np.ascontiguousarray(document.tokens))
        return digest.hexdigest()


def num_targets(documents: Sequence[Document]) -> int:
    """Count the tokens that have a predictor: all but the first of each document."""
    return sum(max(len(document) - 1, 0) for document in documents)


def num_target_bytes(documents: Sequence[Document]) -> int:
    """Count the bytes of text behind the targets; bits per byte = summed nats / this / ln 2."""
    total = 0
    for document in documents:
        if len(document) < 2:
            continue
        counts = document.byte_counts
        total += len(document) - 1 if counts is None else int(counts[1:].sum())
    return total


def label_classes(documents: Sequence[Document]) -> dict[str, int]:
    """Return {label: one more than its largest value}, 0 where no value is given."""
    found: dict[str, int] = {}
    for document in documents:
        for name, values in document.labels.items():
            largest = int(np.max(values, initial=-1))
            found[name] = max(found.get(name, 0), largest + 1)
    return found


def subsample(documents: Sequence[Document], max_tokens: int | None) -> tuple[Document, ...]:
    """Keep at most `max_tokens` tokens: the leading share of each document, in proportion.

    Every document stays represented (by two tokens at least, so that it has a target), which makes
    a cheap evaluation resemble the full one. None = everything.
    """
    total = sum(len(document) for document in documents)
    if max_tokens is None or total <= max_tokens:
        return tuple(documents)
    share = max_tokens / total
    return tuple(d.slice(0, min(len(d), max(2, int(len(d) * share)))) for d in documents)


def split_documents(documents: Sequence[Document], max_tokens: int | None) -> tuple[Document, ...]:
    """Cut every document in documents of at most `max_tokens` tokens. None = whole.

    A track stays with one document until its end. With few tracks and long documents the model then
    sees only as many documents as there are tracks for a long while; shuffled pieces mix them.
    """
    if max_tokens is None:
        return tuple(documents)
    return tuple(
        document.slice(start, min(start + max_tokens, len(document)))
        for document in documents
        for start in range(0, len(document), max_tokens)
        if len(document) - start > 1 or start == 0
    )


def sample_spans(
    documents: Sequence[Document], *, span_len: int, count: int, seed: int
) -> tuple[Document, ...]:
    """Draw spans for contextual pretraining on long documents (SYSTEMS P-18).

    Every line (of documents not made of bytes: every token) is an equally likely beginning, if half
    a span follows it in its document. Drawn with replacement, each at most `span_len` tokens.

    Raises:
      UserError: no document holds half a span.
    """
    owners, begins = [], []
    for i, document in enumerate(documents):
        tokens = document.tokens
        at = np.arange(len(tokens))
        if tokens.dtype == np.uint8:
            at = np.concatenate([[0], np.flatnonzero(tokens == ord("\n")) + 1])
        at = at[len(tokens) - at >= max(span_len // 2, 1)]
        owners.append(np.full(len(at), i))
        begins.append(at)
    owner, begin = np.concatenate(owners or [[]]), np.concatenate(begins or [[]])
    if len(begin) == 0:
        raise UserError(f"no document holds half a span: lower span_len, now {span_len}")
    chosen = (random_words(seed, 0, count) % np.uint64(len(begin))).astype(np.int64)
    drawn = [(documents[owner[i]], int(begin[i])) for i in chosen]
    return tuple(d.slice(start, min(start + span_len, len(d))) for d, start in drawn)
