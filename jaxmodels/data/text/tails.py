"""Validation that no training batch can touch: the tail of each track (SYSTEMS G-33, 2.2.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxmodels.data.text.documents import Document
from jaxmodels.errors import UserError


def split_tails(
    documents: Sequence[Document], tracks: int, fraction: float = 0.1
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """The documents end to end, cut in equal tracks: -> (heads, tails) as documents.

    The last `fraction` of each of the `tracks` tracks is held out; what is left over after whole
    tracks belongs to the last tail. A document that a cut goes through becomes several, each with
    a first token that nothing predicts, so that no target lies in the other part. Pieces of one
    token have no target and are left out.

    Raises:
      UserError: a fraction outside (0, 1), or tracks too short to have a tail.
    """
    if not 0 < fraction < 1:
        raise UserError(f"data.valid_fraction: must lie in (0, 1) for tails, got {fraction}")
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
