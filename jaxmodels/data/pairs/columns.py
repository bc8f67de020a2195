"""Which fields of a row are its question and which is its answer, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxmodels.data.readers.files import names_of
from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError

# (fields of the question, joined by line breaks where filled; field of the answer); the first whose
# question begins with a field of the row, and whose answer is one, is read.
FIELDS = (
    (("instruction", "input"), "output"),
    (("instruction", "input"), "response"),
    (("input",), "output"),
    (("question",), "answer"),
    (("prompt",), "response"),
    (("prompt",), "completion"),
    (("source",), "target"),
    (("article",), "highlights"),
    (("document",), "summary"),
)
FIX = "name the fields to read, the answer last: config.data.columns=question,answer"


class Columns(NamedTuple):
    """Names of the fields of a question, and of its answer, as a row spells them."""

    question: tuple[str, ...]
    answer: str


def known(names: Sequence[str]) -> Columns | None:
    """Return the columns of `FIELDS` among these names, whatever their case; None without any."""
    found = _spelling(names)
    for question, answer in FIELDS:
        if question[0] in found and answer in found:
            return Columns(tuple(found[q] for q in question if q in found), found[answer])
    return None


def columns_of(names: Sequence[str], chosen: Sequence[str], place: str) -> Columns:
    """Return the columns to read of a row with these names.

    Args:
      names: the fields of the row.
      chosen: names to read instead of `FIELDS`, the answer last; () = none.
      place: for messages.

    Raises:
      UserError: a chosen name is missing, or none of `FIELDS` is there.
    """
    listed = names_of(names)
    if chosen:
        found = _spelling(names) | {name: name for name in names}
        spelled = [found.get(name, found.get(name.lower())) for name in chosen]
        missing = [name for name, spelling in zip(chosen, spelled, strict=True) if spelling is None]
        if missing or len(chosen) < 2:
            wrong = f"no field {missing[0]!r}" if missing else f"one name alone, {chosen[0]!r}"
            raise UserError(f"{place}: config.data.columns: {wrong}; got the fields {listed}")
        return Columns(tuple(spelled[:-1]), spelled[-1])
    if columns := known(names):
        return columns
    others = ", ".join(f"{question[0]}/{answer}" for question, answer in FIELDS)
    raise UserError(
        f"{place}: expected the fields input and output, or one of {others}; got {listed}; or {FIX}"
    )


def _spelling(names: Sequence[str]) -> dict[str, str]:
    """Return the names by their lower-case form; of two that differ in case, the first."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(name.strip().lower(), name)
    return found


def texts_of_row(
    row: Mapping[str, Any], chosen: Sequence[str], place: str, unused: Unused
) -> tuple[Any, Any]:
    """Return (question, answer) of a row, of several answers the first; count what is not read.

    Raises:
      UserError: see `columns_of`; or a further part of a question that is no text.
    """
    columns = columns_of(list(row), chosen, place)
    unused.fields(row, (*columns.question, columns.answer), place, chosen=bool(chosen))
    answer = row[columns.answer]
    if isinstance(answer, list) and answer:  # as in NQ-open
        unused.add("further answers to a question", place, len(answer) - 1)
        answer = answer[0]
    parts = [row[name] for name in columns.question]
    if len(parts) == 1:
        return parts[0], answer
    for name, part in zip(columns.question, parts, strict=True):
        if part is not None and not isinstance(part, str):
            raise UserError(f"{place}: field {name!r} must be text, got {part!r:.40}")
    return "\n".join(part for part in parts if part and part.strip()), answer
