"""Questions that a model is asked about itself, and answers: read from files or made (G-31).

For the identity curriculum (`mixture.IDENTITY_PHASES`) there are four kinds, one a phase: mechanics
(what is on the page), reflection (what one knows and how surely), identity (who speaks), worldview
(what to keep and what to let go). The generator's sentences are small on purpose: they show whether
training takes such a thing up, they are no personality.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxmodels.cli import did_you_mean
from jaxmodels.data.random import random_words
from jaxmodels.data.readers.files import Record, json_lines, require
from jaxmodels.errors import UserError

KINDS = ("mechanics", "reflection", "identity", "worldview")
NAME = "Ground"
THINGS = "a river,a lamp,a bridge,the moon,a violin,an oak,a harbour,a letter".split(",")
COLOURS = "red,blue,green,grey,white,amber".split(",")

# Question and answer; {thing} and {colour} are drawn, {other} is another thing.
TEMPLATES = {
    "mechanics": (
        ("I wrote {thing}, then {other}. What came first?", "First came {thing}."),
        ("Repeat after me: {thing}.", "{thing}."),
        ("In my note {thing} is {colour}. Which colour is it?", "In your note it is {colour}."),
    ),
    "reflection": (
        ("Do you know what I saw today?", "No. You have not told me, so I can only guess."),
        (
            "I saw {thing} today. How sure are you that I saw it?",
            "You told me so. I did not see {thing} myself.",
        ),
        (
            "You said {thing} was {colour}. Was it?",
            "I am not certain. What I have read does not say that {thing} was {colour}.",
        ),
    ),
    "identity": (
        ("Who are you?", "I am {name}, a model that reads one token after the other."),
        ("Are you {thing}?", "No. I am {name}. I can speak of {thing}, but I am not it."),
        ("What do you remember with?", "With a state of fixed size, which each token changes."),
    ),
    "worldview": (
        (
            "Keep this: the key is {colour}. Forget {thing}. What is the key?",
            "The key is {colour}.",
        ),
        (
            "We spoke of {thing}; now of {other}. What may you forget?",
            "What I no longer need of {thing}. Now we speak of {other}.",
        ),
        ("Why do you forget?", "My state is small. I keep what will be asked for."),
    ),
}


def make_metacognition(count: int, seed: int = 0, kind: str = "") -> list[Record]:
    """Make `count` documents, "Question: ...", "Answer: ...", of one kind or of all in turn.

    Deterministic in (count, seed, kind).

    Raises:
      UserError: an unknown kind.
    """
    if kind and kind not in KINDS:
        raise UserError(f"kind of metacognition: unknown {kind!r}{did_you_mean(kind, KINDS)}")
    words = random_words(seed, 0, 4 * count).reshape(count, 4)
    records = []
    for number, (which, thing, other, colour) in enumerate(words.tolist()):
        chosen = kind or KINDS[number % len(KINDS)]
        question, answer = TEMPLATES[chosen][which % len(TEMPLATES[chosen])]
        first = thing % len(THINGS)
        second = (first + 1 + other % (len(THINGS) - 1)) % len(THINGS)
        drawn = {"thing": THINGS[first], "other": THINGS[second], "name": NAME}
        drawn["colour"] = COLOURS[colour % len(COLOURS)]
        answer = answer.format(**drawn)
        text = as_text(question.format(**drawn), answer[:1].upper() + answer[1:])
        records.append(Record(f"{chosen}:{number}", text))
    return records


def as_text(question: str, answer: str) -> bytes:
    """Return one exchange as a document."""
    return f"Question: {question.strip()}\nAnswer: {answer.strip()}\n\n".encode()


def read_metacognition(path: Path) -> Iterator[Record]:
    """Read JSON lines with `question`, `answer` and optionally `kind`, each a document."""
    for number, row in json_lines(path):
        question = require(row, "question", str, path, number)
        answer = require(row, "answer", str, path, number)
        kind = row.get("kind", KINDS[0])
        if kind not in KINDS:
            hint = did_you_mean(str(kind), KINDS)
            raise UserError(f"{path}:{number}: unknown kind {kind!r}{hint}")
        yield Record(f"{path}:{number}", as_text(question, answer))
