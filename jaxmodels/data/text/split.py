"""Splits of a corpus by document, by position, or by the tail of each track."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxmodels.data.readers.files import Record
from jaxmodels.data.text.documents import Document
from jaxmodels.errors import UserError


def split_records(
    records: list[Record], valid: float, test: float
) -> tuple[list[list[Record]], str]:
    """Return ([train, valid, test] records, a one-sentence description of the split).

    Args:
      valid, test: fractions of the text; `load_corpus` states the rule.
    """
    smallest = min([fraction for fraction in (valid, test) if fraction > 0], default=0.0)
    if len(records) * smallest >= 1 - 1e-9:
        return _by_document(records, valid, test), (
            f"by document: every one of {len(records)} documents in one split, "
            f"valid {valid:g} and test {test:g} of them, evenly spaced in reading order"
        )
    splits = [[], [], []]
    for record in records:
        for part, piece in zip(splits, _by_position(record, valid, test), strict=True):
            if piece.text:
                part.append(piece)
    return splits, (
        f"by position: each document's first {1 - valid - test:g} to train, "
        f"next {valid:g} to valid, last {test:g} to test, cut at line breaks"
    )


def _by_document(records: list[Record], valid: float, test: float) -> list[list[Record]]:
    """Hold out document i where the running count i * fraction passes an integer."""
    splits = [[], [], []]
    held = valid + test
    for i, record in enumerate(records):
        taken = int(i * held + 1e-9)
        if int((i + 1) * held + 1e-9) == taken:
            splits[0].append(record)
        else:  # a fraction valid / held of the held-out documents goes to valid, evenly spaced
            to_valid = int((taken + 1) * valid / held + 1e-9) > int(taken * valid / held + 1e-9)
            splits[1 if to_valid else 2].append(record)
    return splits


def _by_position(record: Record, valid: float, test: float) -> list[Record]:
    size = len(record.text)
    first = _cut(record.text, round(size * (1 - valid - test)))
    second = max(first, _cut(record.text, round(size * (1 - test))))
    return [
        record.slice(0, first, "train"),
        record.slice(first, second, "valid"),
        record.slice(second, size, "test"),
    ]


def _cut(text: bytes, near: int) -> int:
    """Return the end of the line at byte `near`, else of the word, else of the character."""
    if near >= len(text):
        return len(text)
    for pattern in (rb"\n", rb"\s"):
        match = re.compile(pattern).search(text, max(near - 1, 0))
        if match and match.end() < len(text):
            return match.end()
    while near < len(text) and text[near] & 0xC0 == 0x80:
        near += 1
    return near


def split_tails(
    documents: Sequence[Document], tracks: int, fraction: float = 0.1
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """Cut the concatenated documents into equal tracks; return (heads, tails) as documents.

    The last `fraction` of each track is held out, so that no training batch contains it; tokens
    beyond the last whole track belong to the last tail. A document that contains a cut becomes
    several, whose first tokens are not targets: no target is in the other part. Pieces of one token
    are dropped.

    Raises:
      UserError: a fraction outside (0, 1), or tracks too short to have a tail.
    """
    if not 0 < fraction < 1:
        raise UserError(
            "data.valid_fraction: must be in (0, 1) with data.valid_from='tail_of_tracks', "
            f"got {fraction}"
        )
    total = sum(len(document) for document in documents)
    track = total // tracks
    tail = round(track * fraction)
    if tail < 2 or track - tail < 2:
        raise UserError(
            f"corpus too short: {total} tokens in {tracks} tracks leave tails of {tail}; give more "
            "text, fewer rows or another data.valid_fraction"
        )
    ends = np.arange(1, tracks + 1) * track
    cuts = np.unique(np.concatenate([[0], ends - tail, ends[:-1], [total]]))
    heads: list[Document] = []
    tails: list[Document] = []
    begin = 0
    for document in documents:
        end = begin + len(document)
        inside = cuts[(cuts > begin) & (cuts < end)]
        for start, stop in zip([begin, *inside], [*inside, end], strict=True):
            if stop - start > 1:
                number = int(np.searchsorted(cuts, start, side="right")) - 1
                whole = (start, stop) == (begin, end)
                piece = document if whole else document.slice(int(start - begin), int(stop - begin))
                (tails if number % 2 else heads).append(piece)
        begin = end
    return tuple(heads), tuple(tails)
