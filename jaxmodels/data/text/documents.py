"""Documents and corpora: tokens, the bytes they encode, and their labels."""

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
    """A stretch of text whose first token is never a target.

    Attributes:
      name: origin, for messages and reports.
      tokens: (length,) uint8 for bytes, else int32.
      byte_counts: (length,) int32, bytes of text per token; None = one byte per token.
      labels: named arrays (length, ...) int32, -1 = no label. They reach the batch under their
        name, at the position of the input token.
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
        """Number of bytes of text."""
        return len(self.tokens) if self.byte_counts is None else int(self.byte_counts.sum())

    def slice(self, start: int, stop: int) -> Document:
        """Return tokens [start, stop) as a document."""
        return Document(
            f"{self.name}[{start}:{stop}]",
            self.tokens[start:stop],
            None if self.byte_counts is None else self.byte_counts[start:stop],
            {name: values[start:stop] for name, values in self.labels.items()},
        )


@dataclass(frozen=True)
class Corpus:
    """Three disjoint splits of a text collection, and their tokenizer.

    Attributes:
      name: short name for reports.
      train, valid, test: documents of each split.
      tokenizer: tokenizer of the documents.
      split: description of the split, one sentence.
      notes: lines on what of the input is not used, or not known to the tokenizer.
    """

    name: str
    train: tuple[Document, ...]
    valid: tuple[Document, ...]
    test: tuple[Document, ...]
    tokenizer: Tokenizer
    split: str
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return the SHA-256 over the tokens of all splits."""
        digest = hashlib.sha256()
        for split in (self.train, self.valid, self.test):
            digest.update(f"split:{len(split)};".encode())
            for document in split:
                digest.update(f"{document.tokens.dtype.str}:{len(document)};".encode())
                digest.update(np.ascontiguousarray(document.tokens))
        return digest.hexdigest()


def num_targets(documents: Sequence[Document]) -> int:
    """Count the targets: all tokens but the first of each document."""
    return sum(max(len(document) - 1, 0) for document in documents)


def num_target_bytes(documents: Sequence[Document]) -> int:
    """Count the bytes of text in the targets; bits per byte = summed nats / this / ln 2."""
    return sum(document.slice(1, len(document)).num_bytes for document in documents)


def label_classes(documents: Sequence[Document]) -> dict[str, int]:
    """Return {label: one more than its largest value}, 0 without any value."""
    classes: dict[str, int] = {}
    for document in documents:
        for name, values in document.labels.items():
            largest = int(np.max(values, initial=-1))
            classes[name] = max(classes.get(name, 0), largest + 1)
    return classes


def subsample(documents: Sequence[Document], max_tokens: int | None) -> tuple[Document, ...]:
    """Keep at most `max_tokens` tokens (None = all): the same leading fraction of each document.

    Every document keeps two tokens or more, so that a cheap evaluation resembles the full one.
    """
    total = sum(len(document) for document in documents)
    if max_tokens is None or total <= max_tokens:
        return tuple(documents)
    fraction = max_tokens / total
    return tuple(d.slice(0, min(len(d), max(2, int(len(d) * fraction)))) for d in documents)


def split_documents(documents: Sequence[Document], max_tokens: int | None) -> tuple[Document, ...]:
    """Cut documents into pieces of at most `max_tokens` tokens (None = whole documents).

    A track reads one document to its end. With few tracks and long documents, a model would see few
    documents at a time; shuffled pieces mix them.
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
    """Draw spans for contextual pretraining on long documents, with replacement.

    Spans begin at lines (without byte tokens: at any token), uniformly among those followed by half
    a span or more in their document, and have at most `span_len` tokens.

    Raises:
      UserError: no document is as long as half a span.
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
        raise UserError(f"no document is as long as half a span: lower span_len, got {span_len}")
    chosen = (random_words(seed, 0, count) % np.uint64(len(begin))).astype(np.int64)
    drawn = [(documents[owner[i]], int(begin[i])) for i in chosen]
    return tuple(d.slice(start, min(start + span_len, len(d))) for d, start in drawn)
