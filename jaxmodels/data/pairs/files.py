"""Readers of question-answer files in the formats of public corpora (docs/systems.md, L-39).

    .jsonl          one object per line, with two fields of `FIELDS`
    .csv            with a header line, two of its fields in `FIELDS` (CNN/DailyMail as published)
    .tsv            question, tab, answer; no header line
    .json           SQuAD 1.1 or 2.0: context and question as one text; unanswerable ones left out
    text.en+text.es two parallel files (WMT, OPUS, JFLEG): questions, then answers

A malformed file raises a UserError that names the file and the line, in SQuAD the question.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxmodels.data.pairs.rows import Pair, normalized
from jaxmodels.data.readers.files import (
    find_files,
    json_document,
    json_lines,
    numbered_lines,
    read_text,
    require,
)
from jaxmodels.errors import UserError
from jaxmodels.paths import exists, is_file, user_path

FIELDS = (
    ("input", "output"),
    ("question", "answer"),
    ("prompt", "response"),
    ("source", "target"),
    ("article", "highlights"),
    ("document", "summary"),
)
SUFFIXES = (".jsonl", ".tsv")  # read from folders; .csv and .json files must be named
PARALLEL = "+"  # separates the names of two parallel files


def read_all(paths: Sequence[str], prefix: str = "") -> list[Pair]:
    """Read the pairs of files, folders, globs and `one+other`; prefix each question."""
    parallel = [path for path in paths if _is_parallel(path)]
    pairs = [pair for path in parallel for pair in read_parallel(*_two_files(path))]
    rest = [path for path in paths if path not in parallel]
    for file in find_files(rest, SUFFIXES) if rest else []:
        pairs += read_pairs(file)
    if not pairs:
        raise UserError(f"{', '.join(map(str, paths))}: contains no question with an answer")
    return [dataclasses.replace(pair, question=prefix + pair.question) for pair in pairs]


def read_pairs(path: Path) -> Iterator[Pair]:
    """Read one file by its suffix; unknown suffixes are read as JSON lines."""
    readers = {".tsv": _tsv, ".csv": _csv, ".json": _squad}
    for place, question, answer in readers.get(path.suffix.lower(), _jsonl)(path):
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
        if any("\ud800" <= symbol <= "\udfff" for symbol in text):
            raise UserError(f"{place}: an unpaired surrogate, which is not a character")
    return Pair(normalized(question), normalized(answer), task)


def _fields(names: Sequence[str], place: str) -> tuple[str, str]:
    for pair in FIELDS:
        if pair[0] in names and pair[1] in names:
            return pair
    expected = " or ".join(" and ".join(pair) for pair in FIELDS)
    raise UserError(f"{place}: expected the fields {expected}; got {', '.join(names) or 'none'}")


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
    old_limit = csv.field_size_limit(2**31 - 1)  # the default, 131,072, is less than an article
    rows = csv.DictReader(text, strict=True)
    try:
        question, answer = _fields(rows.fieldnames or [], f"{path}:1")
        for row in rows:
            yield f"{path}:{rows.line_num}", row[question], row[answer]
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num + 1}: not valid CSV, {error}") from error
    finally:
        csv.field_size_limit(old_limit)


def _squad(path: Path) -> Iterator[tuple[str, Any, Any]]:
    document, _ = json_document(path, dict, "SQuAD, an object with the field data")
    for article in require(document, "data", list, path, "the document"):
        for paragraph in require(article, "paragraphs", list, path, "an article"):
            context = require(paragraph, "context", str, path, "a paragraph")
            for entry in require(paragraph, "qas", list, path, "a paragraph"):
                question = require(entry, "question", str, path, "a question")
                place = f"question {entry.get('id', '?')}"
                answers = require(entry, "answers", list, path, place)
                if answers:  # the first one is the question author's
                    text = require(answers[0], "text", str, path, place)
                    yield f"{path}: {place}", f"{context}\n{question}", text
