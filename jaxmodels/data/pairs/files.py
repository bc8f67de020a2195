"""Readers of question-answer files in the formats of public corpora (docs/systems.md, L-39).

    .jsonl          one object per line, with fields of `columns.FIELDS`
    .csv            with a header line that names such fields (CNN/DailyMail as published)
    .tsv            question, tab, answer; or with a header line as a .csv
    .json           an array of such objects (Alpaca), or SQuAD 1.1 or 2.0: context and question as
                    one text; unanswerable ones left out, of several answers the first read
    .m2, .tmx       corrections and translations; a .jsonl may also hold Natural Questions: see
                    `corpora.py`
    text.en+text.es two parallel files (WMT, OPUS, JFLEG): questions, then answers

Other columns are named with `columns`, the answer last; in a table without header by number from 1;
of a .tmx file two languages.
A malformed file raises a UserError that names the file and the line, in SQuAD the question.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxmodels.data.pairs import corpora
from jaxmodels.data.pairs.columns import FIX, columns_of, known, texts_of_row
from jaxmodels.data.pairs.rows import Pair, composed, normalized
from jaxmodels.data.readers.files import (
    find_files,
    json_document,
    json_lines,
    place_of,
    read_text,
    require,
)
from jaxmodels.data.readers.tables import csv_rows, named, tab_rows
from jaxmodels.data.unused import LIMIT, Unused
from jaxmodels.errors import UserError
from jaxmodels.paths import exists, is_file, user_path

SUFFIXES = (
    ".jsonl",
    ".tsv",
    ".m2",
    ".tmx",
)  # read from folders; .csv and .json files must be named
PARALLEL = "+"  # separates the names of two parallel files
Found = Iterator[tuple[str, Any, Any]]  # place, question, answer


@dataclasses.dataclass(frozen=True)
class Reading:
    """How files are read, and the account of it.

    Attributes:
      columns: names of the fields to read, the answer last; () = those of `columns.FIELDS`.
      unused: receives what is not used.
    """

    columns: tuple[str, ...] = ()
    unused: Unused = dataclasses.field(default_factory=Unused)


def read_all(
    paths: Sequence[str],
    prefix: str = "",
    columns: Sequence[str | int] = (),
    *,
    max_unused: float = LIMIT,
    unused: Unused | None = None,
) -> list[Pair]:
    """Read the pairs of files, folders, globs and `one+other`.

    Args:
      paths: where.
      prefix: text in front of each question.
      columns: see `Reading`.
      max_unused: largest share of the text that may be in fields that are not read.
      unused: receives what is not used.

    Raises:
      UserError: a malformed file, one without pairs, or too much of the text is not read.
    """
    reading = Reading(tuple(map(str, columns)), unused or Unused())
    parallel = [path for path in paths if _is_parallel(path)]
    pairs = [pair for path in parallel for pair in read_parallel(*_two_files(path))]
    rest = [path for path in paths if path not in parallel]
    for file in find_files(rest, SUFFIXES, reading.unused) if rest else []:
        pairs += read_pairs(file, reading)
    if not pairs:
        raise UserError(f"{', '.join(map(str, paths))}: contains no question with an answer")
    reading.unused.check(max_unused, FIX)
    prefix = composed(prefix)
    return [dataclasses.replace(pair, question=prefix + pair.question) for pair in pairs]


def read_pairs(path: Path, reading: Reading | None = None) -> Iterator[Pair]:
    """Read one file by its suffix; unknown suffixes are read as JSON lines."""
    read = READERS.get(path.suffix.lower(), _jsonl)
    for place, question, answer in read(path, reading or Reading()):
        yield _pair(question, answer, path.stem, place)


def read_parallel(questions: Path, answers: Path) -> Iterator[Pair]:
    """Read two parallel files; skip lines that are blank in both."""
    sides = [
        read_text(path).decode("utf-8").rstrip("\n").split("\n") for path in (questions, answers)
    ]
    counts = [len(side) for side in sides]
    if counts[0] != counts[1]:
        raise UserError(
            f"{questions}: {counts[0]} lines, but {answers} has {counts[1]}; "
            "parallel files must have equally many"
        )
    for number, (question, answer) in enumerate(zip(*sides, strict=True), 1):
        if question.strip() or answer.strip():
            yield _pair(question, answer, questions.stem, f"{questions}:{number}")


def _is_parallel(path: str | Path) -> bool:
    """Return whether a path names two files: it is not a file, but the part before + is."""
    whole, first = user_path(path), user_path(str(path).split(PARALLEL)[0])
    return PARALLEL in str(path) and not exists(whole) and is_file(first)


def _two_files(path: str) -> tuple[Path, Path]:
    paths = [user_path(name) for name in path.split(PARALLEL)]
    missing = [str(part) for part in paths if not is_file(part)]
    if len(paths) != 2 or missing:
        problem = f"{missing[0]} is not a file" if missing else f"got {len(paths)} names"
        raise UserError(f"{path}: expected two files, QUESTIONS{PARALLEL}ANSWERS; {problem}")
    return paths[0], paths[1]


def _pair(question: Any, answer: Any, task: str, place: str) -> Pair:
    for name, text in (("question", question), ("answer", answer)):
        if not isinstance(text, str):
            raise UserError(f"{place}: the {name} must be text, got {text!r:.40}")
        if not text.strip():
            raise UserError(f"{place}: the {name} is empty")
    return Pair(normalized(question), normalized(answer), task)


def _jsonl(path: Path, reading: Reading) -> Found:
    for where, row in json_lines(path):
        place = place_of(path, where)
        if not reading.columns and all(name in row for name in corpora.NQ):
            if found := corpora.natural_question(row, place, reading.unused):
                yield place, *found
            continue
        yield place, *texts_of_row(row, reading.columns, place, reading.unused)


def _tsv(path: Path, reading: Reading) -> Found:
    rows = tab_rows(path)
    first = next(rows, None)
    if first is None:
        return
    if _is_header(first[1], reading.columns):
        yield from _table(named(path, rows, first[1]), reading)
        return
    by_number = dataclasses.replace(reading, columns=reading.columns or ("1", "2"))
    for place, row in named(path, itertools.chain([first], rows), None):
        if not (row["1"].strip() and row.get("2", "").strip()) and not reading.columns:
            raise UserError(f"{place}: expected question, tab, answer")
        if any(cell.strip() for cell in list(row.values())[2:]) and not reading.columns:
            raise UserError(
                f"{place}: expected question, tab, answer, got {len(row)} columns; {FIX}, or by "
                "number, config.data.columns=1,2"
            )
        yield from _table([(place, row)], by_number)


def _m2(path: Path, reading: Reading) -> Found:
    return corpora.m2_pairs(path, reading.unused)


def _tmx(path: Path, reading: Reading) -> Found:
    return corpora.tmx_pairs(path, reading.columns, reading.unused)


def _is_header(cells: Sequence[str], columns: Sequence[str]) -> bool:
    names = {cell.strip().lower() for cell in cells}
    return (
        names.issuperset(c.lower() for c in columns) if columns else known(list(names)) is not None
    )


def _csv(path: Path, reading: Reading) -> Found:
    rows, header = csv_rows(path), None
    if not (reading.columns and all(name.isdecimal() for name in reading.columns)):
        header = [name.strip() for name in next(rows, (1, []))[1]]
        columns_of(header, reading.columns, f"{path}:1")  # a fault of the header is told at once
    return _table(named(path, rows, header), reading)


def _table(rows: Iterator[tuple[str, Mapping]] | list, reading: Reading) -> Found:
    for place, row in rows:
        yield place, *texts_of_row(row, reading.columns, place, reading.unused)


def _json(path: Path, reading: Reading) -> Found:
    if read_text(path).lstrip()[:1] == b"[":
        yield from _jsonl(path, reading)
        return
    document, _ = json_document(
        path, dict, "an array of objects, or SQuAD, an object with the field data"
    )
    count = functools.partial(reading.unused.fields, place=str(path), chosen=True)
    for article in require(document, "data", list, path, "the document"):
        paragraphs = require(article, "paragraphs", list, path, "an article")
        count(article, ("paragraphs",))
        for paragraph in paragraphs:
            context = require(paragraph, "context", str, path, "a paragraph")
            for entry in require(paragraph, "qas", list, path, "a paragraph"):
                question = require(entry, "question", str, path, "a question")
                place = f"question {entry.get('id', '?')!s:.40}"
                answers = require(entry, "answers", list, path, place)
                count(entry, ("question", "answers"))
                where = f"{path}: {place}"
                if not answers:
                    reading.unused.add("questions without an answer", where)
                    continue
                text = require(answers[0], "text", str, path, place)  # the question author's
                reading.unused.add("further answers to a question", where, len(answers) - 1)
                yield where, f"{context}\n{question}", text


READERS = {".tsv": _tsv, ".csv": _csv, ".json": _json, ".m2": _m2, ".tmx": _tmx}
