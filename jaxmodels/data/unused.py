"""The account of what an input holds and nobody reads: counted, told once, and limited."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jaxmodels.errors import UserError, one_line

LIMIT = 0.2  # default of config.data.max_unused
NAMED = 8  # fields that a note names


class Unused:
    """Counts of the parts of an input that are not used.

    Readers add to it; whoever opens the data tells `notes` and calls `check`.
    """

    def __init__(self):
        self._parts: dict[str, tuple[int, str]] = {}  # kind -> (number, where it was first met)
        self._fields: dict[str, int] = {}  # name -> rows that have it
        self._first_row = ""
        self._read = self._unread = 0  # characters of text in fields
        self._told: list[str] = []

    def add(self, kind: str, place: object, count: int = 1) -> None:
        """Count parts of a kind, named in the plural, e.g. "questions without an answer"."""
        if count:
            before, first = self._parts.get(kind, (0, str(place)))
            self._parts[kind] = before + count, first

    def tell(self, note: str) -> None:
        """Add a line to the notes."""
        self._told.append(one_line(note))

    def fields(
        self, row: Mapping[str, Any], used: Collection[str], place: str, *, chosen: bool = False
    ) -> None:
        """Count the fields of a row that are not among those used, unless they are empty.

        Args:
          row: field -> value.
          used: names of the fields that are read.
          place: where the row is.
          chosen: the user has named the fields to read, so that the others do not count in `check`.
        """
        for name, value in row.items():
            size = _characters(value)
            if name in used:
                self._read += size
            elif size or not isinstance(value, str | list | dict | None):
                self._fields[name] = self._fields.get(name, 0) + 1
                self._first_row = self._first_row or place
                self._unread += 0 if chosen else size

    def notes(self) -> tuple[str, ...]:
        """Return one line for each kind of part that is not used."""
        found = [
            f"not used: {kind} ({count:,}; first: {one_line(place)})"
            for kind, (count, place) in self._parts.items()
        ]
        if self._fields:
            first = one_line(self._first_row)
            found.insert(0, f"not used: fields {self._names()} (first: {first})")
        return (*found, *self._told)

    def check(self, limit: float, fix: str) -> None:
        """Raise UserError if more than `limit` of the text of rows is in fields that are not read.

        Args:
          limit: largest share, in characters.
          fix: what to do about it.
        """
        share = self._unread / max(self._read + self._unread, 1)
        if share > limit:
            raise UserError(
                f"{one_line(self._first_row)}: {share:.0%} of the text is in fields that are not "
                f"read: {self._names()}, more than config.data.max_unused={limit:g}; {fix}"
            )

    def _names(self) -> str:
        listed = [f"{name!r} ({rows:,})" for name, rows in self._fields.items()]
        more = len(listed) - NAMED
        return ", ".join(listed[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _characters(value: Any) -> int:
    """Return the characters of a text, or of all texts in a list or an object."""
    count, rest = 0, [value]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            count += len(value.strip())
        elif isinstance(value, list | dict):
            rest += value.values() if isinstance(value, dict) else value
    return count


def share_note(kind: str, count: int, total: int) -> tuple[str, ...]:
    """Return a note on parts that are not used, out of all of their kind; () if there are none."""
    return (f"not used: {kind} ({count:,} of {total:,}, {count / total:.1%})",) if count else ()
