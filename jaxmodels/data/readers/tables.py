"""Rows of tables, CSV and tab-separated, as objects with a value for every column."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxmodels.data.readers.files import numbered_lines, read_text
from jaxmodels.errors import UserError

Rows = Iterator[tuple[int, list[str]]]  # line number, cells


def csv_rows(path: Path) -> Rows:
    """Yield the rows of a CSV that are not blank; raise UserError at one that is malformed."""
    text = io.StringIO(read_text(path).decode("utf-8"), newline="")
    old_limit = csv.field_size_limit(2**31 - 1)  # the default, 131,072, is less than an article
    rows = csv.reader(text, strict=True)
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                yield rows.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: not valid CSV, {error}") from error
    finally:
        csv.field_size_limit(old_limit)


def tab_rows(path: Path) -> Rows:
    """Yield the rows of a tab-separated file that are not blank."""
    return ((number, line.split("\t")) for number, line in numbered_lines(path))


def named(path: Path, rows: Rows, names: Sequence[str] | None) -> Iterator[tuple[str, dict]]:
    """Yield (place, column -> cell) of every row; empty cells past the last column do not count.

    Args:
      path: for messages.
      rows: the rows after the header.
      names: the columns of the header; None = there is none, and columns are named "1", "2", ...

    Raises:
      UserError: two columns of one name, or a row with more or fewer cells than the header.
    """
    if names is not None:
        names = [name.strip() or f"column {i}" for i, name in enumerate(names, 1)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{path}:1: two columns are named {twice[0]!r}; rename one")
    for number, cells in rows:
        if names is None:
            yield f"{path}:{number}", {str(i): cell for i, cell in enumerate(cells, 1)}
            continue
        if len(cells) < len(names) or any(cell.strip() for cell in cells[len(names) :]):
            raise UserError(
                f"{path}:{number}: expected {len(names)} cells as in the header, got {len(cells)}"
            )
        yield f"{path}:{number}", dict(zip(names, cells, strict=False))
