"""Readers of GSM8K and chains of thought, with a target for every step."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxmodels.data.readers.files import (
    Record,
    json_document,
    json_lines,
    place_of,
    require,
)
from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError

# Later steps share the last class, so that heads have a fixed number of classes.
NUM_STEP_CLASSES = 16
COT_FIELDS = ("source", "rationale", "target")


_CALCULATION = re.compile(r"<<[^<>]*=[^<>=]*>>")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)")


def read_gsm8k(path: Path, unused: Unused | None = None) -> Iterator[Record]:
    """Read GSM8K: "Question: ...", "Answer: ..." without calculator annotations, "#### n".

    Label `step_targets`: index of the line of the solution, from 0; the `#### n` line is the last
    step. The question has no label.
    """
    unused = unused or Unused()
    for where, row in json_lines(path):
        place = place_of(path, where)
        question, answer = (require(row, name, str, path, where) for name in ("question", "answer"))
        unused.fields(row, ("question", "answer"), place)
        solution, mark, final = answer.rpartition("####")
        final = final.strip().replace(",", "")
        if not mark or not _NUMBER.fullmatch(final):
            raise UserError(
                f"{place}: field 'answer' must end in '#### <number>', "
                f"got {answer[-20:]!r}; correct or remove this line"
            )
        lines = (line.strip() for line in _CALCULATION.sub("", solution).split("\n"))
        steps = [*(line + "\n" for line in lines if line), f"#### {final}\n"]
        yield _reasoning(place, f"Question: {question.strip()}\nAnswer: ", steps)


def read_cot(path: Path, unused: Unused | None = None) -> Iterator[Record]:
    """Read chain-of-thought exemplars: source, rationale, target.

    A step of the rationale is a sentence or a line; the target is the last step. Label
    `step_targets`: index of the step, from 0. The source has no label.
    """
    unused = unused or Unused()
    for name, where, row in _cot_rows(path):
        source, rationale, target = (require(row, field, str, path, where) for field in COT_FIELDS)
        unused.fields(row, COT_FIELDS, name)
        steps = re.findall(r"\S.*?(?:[.!?](?=\s)\s*|\n+|\Z)", rationale.strip() + "\n", re.S)
        if not steps:
            raise UserError(
                f"{place_of(path, where)}: field 'rationale' is empty; fill or remove this entry"
            )
        yield _reasoning(name, source.strip() + "\n", [*steps, target.strip() + "\n"])


def _cot_rows(path: Path) -> Iterator[tuple[str, int | str, dict]]:
    if path.suffix.lower() == ".jsonl":
        for where, row in json_lines(path):
            yield place_of(path, where), where, row
        return
    rows, text = json_document(path, dict, "an object {id: {source, rationale, target}}")
    at = number = 0
    for key, row in rows.items():
        # Keys come in the order of the file: the search goes on behind the last one.
        found = text.find(json.dumps(key, ensure_ascii=False), at)
        if found >= 0:
            number, at = number + text.count("\n", at, found), found
        if not isinstance(row, dict):
            raise UserError(
                f"{path}:{number + 1}: entry {key!r} must be an object, got {row!r:.40}"
            )
        yield f"{path}:{key}", number + 1, row


def _reasoning(name: str, prompt: str, steps: Sequence[str]) -> Record:
    text = prompt.encode()
    spans = []
    for i, step in enumerate(steps):
        start = len(text)
        text += step.encode()
        spans.append((start, len(text), min(i, NUM_STEP_CLASSES - 1)))
    return Record(name, text, {"step_targets": spans})
