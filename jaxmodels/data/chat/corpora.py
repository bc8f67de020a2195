"""Readers of conversations: JSON lines, and the packaged and generated corpora by name.

A line is an object in one of three forms:

    {"instruction": ..., "input": ..., "output": ...}       Alpaca; "input" may be "" or absent
    {"prompt": ..., "response": ...}
    {"messages": [{"role": "user", "content": ...}, ...]}   roles user, assistant, system

Optional fields label the last exchange: "intent", a class, and "answerable", true or false.
Exchanges without them are labelled by rule (`labels.py`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxmodels.cli import did_you_mean
from jaxmodels.data.chat.arithmetic import NAME, generate_arithmetic
from jaxmodels.data.chat.conversation import Conversation, merged
from jaxmodels.data.chat.labels import INTENTS
from jaxmodels.data.chat.packaged import PACKAGED
from jaxmodels.data.readers.files import find_files, json_lines, require
from jaxmodels.errors import UserError

CORPORA = (*PACKAGED, NAME)
SUFFIXES = (".jsonl",)  # read from folders; other files must be named
FORMS = "instruction and output, prompt and response, or messages"
ROLES = ("user", "assistant", "system")


def read_corpora(
    names: Sequence[str], *, examples: int = 2000, digits: int = 3, seed: int = 0
) -> list[Conversation]:
    """Read packaged corpora and generate others.

    Args:
      names: some of `CORPORA`.
      examples, digits, seed: of a generated one, see `generate_arithmetic`.

    Raises:
      UserError: an unknown name, a package not installed, or too few examples.
    """
    for name in names:
        if name not in CORPORA:
            raise UserError(f"data.corpora: unknown {name!r}{did_you_mean(name, CORPORA)}")
    return [
        conversation
        for name in names
        for conversation in (
            generate_arithmetic(examples, digits, seed) if name == NAME else PACKAGED[name]()
        )
    ]


def read_chat(paths: Sequence[str | Path], intents: Sequence[str] = INTENTS) -> list[Conversation]:
    """Read files, folders and globs of JSON lines.

    Args:
      paths: where; a folder gives its *.jsonl files.
      intents: valid names of intents.

    Raises:
      UserError: a faulty line; names file, line and fix.
    """
    return [
        conversation
        for path in find_files(paths, SUFFIXES)
        for number, row in json_lines(path)
        for conversation in [_conversation(row, path, number, intents)]
    ]


def _conversation(row: dict, path: Path, number: int, intents: Sequence[str]) -> Conversation:
    place = f"{path}:{number}"
    if "messages" in row:
        turns, answers = _messages(row, path, number)
    else:
        turns, answers = _pair(row, path, number), (1,)
    for turn in turns:
        if any("\ud800" <= symbol <= "\udfff" for symbol in turn):
            raise UserError(f"{place}: an unpaired surrogate, which is not a character")
    intent, answerable = row.get("intent") or "", row.get("answerable")
    if intent and intent not in intents:
        raise UserError(f"{place}: unknown intent {intent!r}{did_you_mean(str(intent), intents)}")
    if answerable is not None and not isinstance(answerable, bool):
        raise UserError(f"{place}: field 'answerable' must be true or false, got {answerable!r}")
    return Conversation(tuple(turns), answers, path.stem, intent, answerable)


def _pair(row: dict, path: Path, number: int) -> list[str]:
    """Return [prompt, response] of a line in one of the first two forms."""
    alpaca = "instruction" in row or "output" in row
    if not alpaca and not ("prompt" in row or "response" in row):
        found = ", ".join(row) or "none"
        raise UserError(f"{path}:{number}: expected the fields {FORMS}; got {found}")
    names = ("instruction", "output") if alpaca else ("prompt", "response")
    prompt, response = (_text(row, name, path, number) for name in names)
    if alpaca and row.get("input") is not None:
        prompt = f"{prompt}\n{require(row, 'input', str, path, number)}".strip()
    return [prompt, response]


def _messages(row: dict, path: Path, number: int) -> tuple[list[str], tuple[int, ...]]:
    """Return the turns of a line in the third form, and which ones are the assistant's.

    Consecutive messages of a role are one turn; a system message belongs to the user's next one.
    """
    said = list(_said(require(row, "messages", list, path, number), path, number))
    roles, turns = merged(said)
    answers = tuple(i for i, role in enumerate(roles) if role == "assistant" and i)
    if not answers:
        raise UserError(
            f"{path}:{number}: messages must hold a user's and then an assistant's, "
            f"got {', '.join(roles) or 'none'}"
        )
    return turns[: answers[-1] + 1], answers


def _said(messages: list, path: Path, number: int) -> Iterator[tuple[str, str]]:
    for message in messages:
        role: Any = require(message, "role", str, path, number)
        if role not in ROLES:
            raise UserError(f"{path}:{number}: unknown role {role!r}{did_you_mean(role, ROLES)}")
        yield "user" if role == "system" else role, _text(message, "content", path, number)


def _text(row: dict, name: str, path: Path, number: int) -> str:
    text = require(row, name, str, path, number).strip()
    if not text:
        raise UserError(f"{path}:{number}: the {name} is empty; fill it or remove the line")
    return text
