"""Whether a tokenizer knows the alphabet of pairs, and still tells their questions apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxmodels.data.pairs.rows import Pair
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.unknown import Unknown
from jaxmodels.errors import UserError

COLLAPSED = 0.01  # largest share of the questions of a split that may equal another as rows


def check_alphabet(
    splits: Mapping[str, Sequence[Pair]], tokenizer: Tokenizer, max_unused: float
) -> tuple[str, ...]:
    """Return lines on what the tokenizer does not know of each split.

    Raises:
      UserError: the tokenizer does not know more than `max_unused` of the symbols of a split, or
        more than `COLLAPSED` of its questions become the row of another question.
    """
    notes: tuple[str, ...] = ()
    for name, pairs in splits.items():
        unknown, doubtful = Unknown(tokenizer), []
        for pair in pairs:
            if not unknown.read(pair.question):
                doubtful.append(pair.question)
            unknown.read(pair.answer)
        unknown.check(name, max_unused)
        notes += unknown.notes(name)
        notes += _collapsed(name, doubtful, len({pair.question for pair in pairs}), tokenizer)
    return notes


def _collapsed(name: str, doubtful: Sequence[str], total: int, tokenizer: Tokenizer):
    """Return a line on the questions, of those with unknown symbols, that are the same row."""
    rows: dict[bytes, str] = {}
    same = []
    for question in dict.fromkeys(doubtful):
        first = rows.setdefault(tokenizer.encode(question).tobytes(), question)
        if first != question:
            same.append((first, question))
    if not same:
        return ()
    one, other = same[0]
    says = (
        f"{len(same):,} of {total:,} questions of {name} become the same row as another, such as "
        f"{one[:40]!r} and {other[:40]!r}"
    )
    if len(same) > COLLAPSED * total:
        raise UserError(
            f"config.data.tokenizer: {tokenizer.name!r} lacks symbols, so that {says}; use one "
            "that reads every text: bpe"
        )
    return (f"unknown to the tokenizer: {says}",)
