"""Files of questions with answers, in the formats that public corpora come in (SYSTEMS L-39).

    .jsonl          one object a line, with two fields of `FIELDS`
    .csv            with a line of names, two of them of `FIELDS` (CNN/DailyMail as it is published)
    .tsv            question, tab, answer; no line of names
    .json           SQuAD, 1.1 or 2.0: the text and the question; what has no answer is left out
    text.en+text.es two files, line by line (WMT, OPUS, JFLEG): the first asks, the second answers

Whatever is wrong with a file is a UserError that names file and place.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxmodels.data.pairs.rows import Pair, normalised
from jaxmodels.data.readers.files import (
    find_files,
    json_document,
    json_lines,
    numbered_lines,
    read_text,
    require,
)
from jaxmodels.errors import UserError

FIELDS = (
    ("input", "output"),
    ("question", "answer"),
    ("prompt", "response"),
    ("source", "target"),
    ("article", "highlights"),
    ("document", "summary"),
)
SUFFIXES = (".jsonl", ".tsv")  # of a folder; .csv and .json may be anything, name them
BESIDE = "+"  # between two files that are read line by line


def read_all(paths: Sequence[str], prefix: str = "") -> list[Pair]:
    """Read the pairs of files, folders, globs and `one+other`; prefix each question."""
    beside = [path for path in paths if _is_beside(path)]
    pairs = [pair for path in beside for pair in read_beside(*_two(path))]
    rest = [path for path in paths if path not in beside]
    for file in find_files(rest, SUFFIXES) if rest else []:
        pairs += read_pairs(file)
    if not pairs:
        raise UserError(f"{', '.join(map(str, paths))}: no question with an answer in there")
    return [dataclasses.replace(pair, question=prefix + pair.question) for pair in pairs]


def read_pairs(path: Path) -> Iterator[Pair]:
    """Read one file by its suffix; an unknown suffix is read as JSON lines."""
    kinds = {".tsv": _tsv, ".csv": _csv, ".json": _squad}
    for place, question, answer in kinds.get(path.suffix.lower(), _jsonl)(path):
        yield _pair(question, answer, path.stem, place)


def read_beside(questions: Path, answers: Path) -> Iterator[Pair]:
    """Read two files line by line; skip lines that are blank in both."""
    sides = [
        read_text(path).decode("utf-8").rstrip("\n").split("\n") for path in (questions, answers)
    ]
    counts = [len(side) for side in sides]
    if counts[0] != counts[1]:
        raise UserError(
            f"{questions}: {counts[0]} lines, but {answers} has {counts[1]}; "
            "line by line, one must answer the other"
        )
    for number, (question, answer) in enumerate(zip(*sides, strict=True), 1):
        if question.strip() or answer.strip():
            yield _pair(question, answer, questions.stem, f"{questions}:{number}")


def _is_beside(path: str | Path) -> bool:
    """Return whether a path names two files: it is no file itself, but the part before + is."""
    whole, first = Path(path).expanduser(), Path(str(path).split(BESIDE)[0]).expanduser()
    return BESIDE in str(path) and not whole.exists() and first.is_file()


def _two(given: str) -> tuple[Path, Path]:
    names = given.split(BESIDE)
    paths = [Path(name).expanduser() for name in names]
    missing = [str(path) for path in paths if not path.is_file()]
    if len(paths) != 2 or missing:
        what = f"{missing[0]} is no file" if missing else f"{len(paths)} names"
        raise UserError(f"{given}: expected two files, QUESTIONS{BESIDE}ANSWERS; {what}")
    return paths[0], paths[1]


def _pair(question: Any, answer: Any, task: str, place: str) -> Pair:
    for name, text in (("question", question), ("answer", answer)):
        if not isinstance(text, str):
            raise UserError(f"{place}: the {name} must be text, got {text!r:.40}")
        if not text.strip():
            raise UserError(f"{place}: the {name} is empty")
        if any("\ud800" <= symbol <= "\udfff" for symbol in text):
            raise UserError(f"{place}: half of a surrogate pair, which is no character")
    return Pair(normalised(question), normalised(answer), task)


def _fields(names: Sequence[str], place: str) -> tuple[str, str]:
    for pair in FIELDS:
        if pair[0] in names and pair[1] in names:
            return pair
    wanted = " or ".join(" and ".join(pair) for pair in FIELDS)
    raise UserError(f"{place}: expected the fields {wanted}; found {', '.join(names) or 'none'}")


def _jsonl(path: Path) -> Iterator[tuple[str, Any, Any]]:
    for number, row in json_lines(path):
        place = f"{path}:{number}"
        question, answer = _fields(list(row), place)
        yield place, row[question], row[answer]


def _tsv(path: Path) -> Iterator[tuple[str, Any, Any]]:
    for number, line in numbered_lines(path):
        columns = line.split("\t")
        if len(columns) < 2 or not (columns[0].strip() and columns[1].strip()):
            raise UserError(f"{path}:{number}: expected question, tab, answer")
        yield f"{path}:{number}", columns[0], columns[1]


def _csv(path: Path) -> Iterator[tuple[str, Any, Any]]:
    text = io.StringIO(read_text(path).decode("utf-8"), newline="")
    usual = csv.field_size_limit(2**31 - 1)  # of all readers: 131,072, less than an article has
    rows = csv.DictReader(text, strict=True)
    try:
        question, answer = _fields(rows.fieldnames or [], f"{path}:1")
        for row in rows:
            yield f"{path}:{rows.line_num}", row[question], row[answer]
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num + 1}: not valid CSV, {error}") from error
    finally:
        csv.field_size_limit(usual)


def _squad(path: Path) -> Iterator[tuple[str, Any, Any]]:
    document, _ = json_document(path, dict, "SQuAD, an object with the field data")
    for article in require(document, "data", list, path, "the document"):
        for paragraph in require(article, "paragraphs", list, path, "an article"):
            context = require(paragraph, "context", str, path, "a paragraph")
            for asked in require(paragraph, "qas", list, path, "a paragraph"):
                question = require(asked, "question", str, path, "a question")
                place = f"question {asked.get('id', '?')}"
                answers = require(asked, "answers", list, path, place)
                if answers:  # the first is that of the file's author
                    text = require(answers[0], "text", str, path, place)
                    yield f"{path}: {place}", f"{context}\n{question}", text
