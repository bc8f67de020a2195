"""Reader of puzzles with their answers, from CSV, tab-separated files or JSON lines.

Columns are found by the names of a header, whatever their case and order: question or puzzle,
answer or solution, and others of `NAMES`. Without a header they are the two columns with a grid,
the puzzle first (HRM's files: source, question, answer, rating). A grid is one line of symbols, row
by row; an open cell of a Sudoku is "." or "0".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxmodels.data.pairs.columns import texts_of_row
from jaxmodels.data.pairs.rows import Pair, evenly_spaced
from jaxmodels.data.puzzles.solver import is_solution, solve
from jaxmodels.data.puzzles.sudoku import numbers, pair_of
from jaxmodels.data.readers.files import find_files, json_lines, names_of, place_of
from jaxmodels.data.readers.tables import csv_rows, named, tab_rows
from jaxmodels.data.tokenizers.grid import SUDOKU4, SUDOKU9
from jaxmodels.data.unused import LIMIT, Unused
from jaxmodels.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl")
NAMES = tuple(
    itertools.product(
        ("question", "questions", "puzzle", "puzzles", "quiz", "quizzes", "unsolved", "input"),
        ("answer", "answers", "solution", "solutions", "solved", "output"),
    )
)
FIX = "name the columns of the puzzle and of its answer: config.data.columns=puzzle,solution"
FEWEST_GIVEN = {2: 4, 3: 17}  # with fewer given cells no Sudoku of that box has one solution
CHECKED, GUESSES = 100, 1000  # Sudokus whose solutions are counted, and the work spent on them all


def read_puzzles(
    paths: Sequence[str | Path],
    cells: int,
    symbols: str,
    columns: Sequence[str | int] = (),
    *,
    max_unused: float = LIMIT,
    unused: Unused | None = None,
) -> list[Pair]:
    """Read the puzzles of files, folders and globs.

    Args:
      paths: where.
      cells, symbols: of a grid; with the symbols of a Sudoku it must be one.
      columns: names of the columns of the puzzle and of its answer; () = by `NAMES`.
      max_unused: largest share of Sudokus that may have several solutions.
      unused: receives what is not used.

    Raises:
      UserError: not a puzzle, or not its answer; names file and line.
    """
    unused = unused or Unused()
    box = {SUDOKU4: 2, SUDOKU9: 3}.get(symbols, 0)
    found = []
    for path in find_files(paths, SUFFIXES, unused):
        for place, row, chosen in _rows(path, cells, tuple(map(str, columns))):
            question, answer = texts_of_row(row, chosen, place, unused)
            found.append((place, _pair(question, answer, cells, symbols, place)))
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: contains no puzzle")
    if box:
        _check_unique(found, box, max_unused, unused)
    return [pair for _, pair in found]


def _rows(path: Path, cells: int, columns: tuple[str, ...]):
    """Yield (place, row, names of the puzzle and of its answer in it)."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        for where, row in json_lines(path):
            place = place_of(path, where)
            yield place, row, columns or _by_name(row, place)
        return
    rows = csv_rows(path) if path.suffix.lower() == ".csv" else tab_rows(path)
    first = next(rows, None)
    if first is None:
        return
    grids = tuple(str(i) for i, cell in enumerate(first[1], 1) if len(cell.strip()) == cells)
    if grids:  # no header
        if len(grids) != 2 and not columns:
            raise UserError(f"{path}:{first[0]}: {len(grids)} cells of {cells} symbols; {FIX}")
        table, chosen = named(path, itertools.chain([first], rows), None), columns or grids
    else:
        header = [name.strip() for name in first[1]]
        table, chosen = named(path, rows, header), columns or _by_name(header, f"{path}:1")
    for place, row in table:
        yield place, row, chosen


def _by_name(names: Iterable[str], place: str) -> tuple[str, str]:
    spelled = {name.strip().lower(): name for name in names}
    for question, answer in NAMES:
        if question in spelled and answer in spelled:
            return spelled[question], spelled[answer]
    raise UserError(
        f"{place}: no columns of a puzzle and its answer among: {names_of(spelled)}; {FIX}"
    )


def _pair(question: Any, answer: Any, cells: int, symbols: str, place: str) -> Pair:
    for text in (question, answer):
        if not isinstance(text, str):
            raise UserError(f"{place}: a puzzle must be text, got {text!r:.40}")
    box = {SUDOKU4: 2, SUDOKU9: 3}.get(symbols, 0)
    if box:
        question, answer = question.strip().replace("0", "."), answer.strip()
    if len(question) != cells or len(answer) != cells:
        raise UserError(
            f"{place}: a puzzle and its answer have {cells} cells, got {len(question)} and "
            f"{len(answer)}"
        )
    if not box:
        if wrong := sorted(set(question + answer) - set(symbols)):
            raise UserError(f"{place}: unknown symbol {wrong[0]!r}, expected {symbols!r}")
        return Pair(question, answer, "", (str(sum(map(str.__ne__, question, answer))),))
    if not set(question) <= set(symbols) or not set(answer) <= set(symbols[1:]):
        raise UserError(f"{place}: cells must be digits to {symbols[-1]}, or . where open")
    if any(q not in (".", a) for q, a in zip(question, answer, strict=True)):
        raise UserError(f"{place}: the answer changes a given cell")
    if not is_solution(numbers(answer), box):
        raise UserError(f"{place}: the answer is not a solution")
    return pair_of(question, answer, f"sudoku{box * box}")


def _check_unique(
    found: Sequence[tuple[str, Pair]], box: int, limit: float, unused: Unused
) -> None:
    """Tell the share of Sudokus with several solutions; raise UserError above the limit.

    Too few given cells or digits prove it. The others are solved, but only a sample of them, and
    only as long as that is cheap.
    """
    certain, doubtful = [], []
    for place, pair in found:
        given = pair.question.replace(".", "")
        few = len(given) < FEWEST_GIVEN[box] or len(set(given)) < box * box - 1
        (certain if few else doubtful).append((place, pair))
    several, looked, work = [], 0, 0
    for place, pair in evenly_spaced(doubtful, CHECKED):
        solutions, guesses = solve(numbers(pair.question), box, 2, most_guesses=GUESSES - work)
        several += [place] if len(solutions) > 1 else []
        looked, work = looked + 1, work + guesses
        if work >= GUESSES:
            break
    share = (len(certain) + len(doubtful) * len(several) / max(looked, 1)) / len(found)
    if not share:
        return
    first = certain[0][0] if certain else several[0]
    says = (
        f"{share:.1%} of the puzzles have several solutions, and only the file's own counts as "
        f"right (looked at {len(certain) + looked:,} of {len(found):,}"
    )
    if share > limit:
        raise UserError(
            f"{first}: {says}), more than config.data.max_unused={limit:g}; leave such puzzles out"
        )
    unused.tell(f"{says}; first: {first})")
