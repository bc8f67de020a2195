"""Question-answer pairs about the model itself, read from files or generated.

The identity curriculum (docs/systems.md, G-31; `mixture.IDENTITY_PHASES`) has four kinds, one per
phase: mechanics (what was written), reflection (what is known, how surely), identity (who speaks),
worldview (what to keep and what to forget). The generated sentences are simple on purpose: they
show whether training picks up such data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from jaxmodels.cli import did_you_mean
from jaxmodels.data.random import random_words
from jaxmodels.data.readers.files import Record, json_lines, place_of, require
from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError

KINDS = ("mechanics", "reflection", "identity", "worldview")
NAME = "Ground"
_WORDS = json.loads(files(__package__).joinpath("metacognition.json").read_text("utf-8"))
THINGS, COLOURS = _WORDS["things"], _WORDS["colours"]
# Kind -> (question, answer) templates; {thing} and {colour} are drawn, {other} is another thing.
TEMPLATES = _WORDS["templates"]


def make_metacognition(count: int, kinds: Sequence[str] = KINDS, seed: int = 0) -> list[Record]:
    """Return `count` documents "Question: ... Answer: ...", cycling through these `KINDS`."""
    words = random_words(seed, 0, 4 * count).reshape(count, 4)
    records = []
    for number, (template, thing, other, colour) in enumerate(words.tolist()):
        chosen = kinds[number % len(kinds)]
        question, answer = TEMPLATES[chosen][template % len(TEMPLATES[chosen])]
        first = thing % len(THINGS)
        second = (first + 1 + other % (len(THINGS) - 1)) % len(THINGS)
        drawn = {"thing": THINGS[first], "other": THINGS[second], "name": NAME}
        drawn["colour"] = COLOURS[colour % len(COLOURS)]
        answer = answer.format(**drawn)
        text = as_text(question.format(**drawn), answer[:1].upper() + answer[1:])
        records.append(Record(f"{chosen}:{number}", text, kind=chosen))
    return records


def as_text(question: str, answer: str) -> bytes:
    """Return a question and its answer as the text of a document."""
    return f"Question: {question.strip()}\nAnswer: {answer.strip()}\n\n".encode()


def read_metacognition(path: Path, unused: Unused | None = None) -> Iterator[Record]:
    """Read JSON lines with `question`, `answer` and optionally `kind`, each a document."""
    unused = unused or Unused()
    for where, row in json_lines(path):
        place = place_of(path, where)
        question, answer = (require(row, name, str, path, where) for name in ("question", "answer"))
        unused.fields(row, ("question", "answer", "kind"), place)
        kind = row.get("kind", KINDS[0])
        if kind not in KINDS:
            raise UserError(f"{place}: unknown kind {kind!r}{did_you_mean(str(kind), KINDS)}")
        yield Record(place, as_text(question, answer), kind=kind)
