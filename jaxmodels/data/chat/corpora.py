"""Readers of conversations: JSON lines, and the packaged and generated corpora by name.

A line is an object in one of three forms:

    {"instruction": ..., "input": ..., "output": ...}       Alpaca; "input" may be "" or absent, and
                                                            "output" be called "response"
    {"prompt": ..., "response": ...}
    {"messages": [{"role": "user", "content": ...}, ...]}   roles user, assistant, system

Optional fields label the last exchange: "intent", a class, and "answerable", true or false.
Exchanges without them are labelled by rule (`labels.py`). A .json file may hold an array of such
objects, as Alpaca's does. Other fields of one exchange are named with `columns`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxmodels.cli import did_you_mean
from jaxmodels.data.chat.arithmetic import NAME, generate_arithmetic
from jaxmodels.data.chat.conversation import Conversation, merged
from jaxmodels.data.chat.labels import INTENTS
from jaxmodels.data.chat.packaged import PACKAGED
from jaxmodels.data.pairs.columns import texts_of_row
from jaxmodels.data.readers.files import find_files, json_lines, names_of, place_of, require
from jaxmodels.data.unused import LIMIT, Unused
from jaxmodels.errors import UserError

CORPORA = (*PACKAGED, NAME)
SUFFIXES = (".jsonl",)  # read from folders; other files must be named
FORMS = "instruction and output, instruction and response, prompt and response, or messages"
LABELS = ("intent", "answerable")
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


def read_chat(
    paths: Sequence[str | Path],
    intents: Sequence[str] = INTENTS,
    columns: Sequence[str] = (),
    *,
    max_unused: float = LIMIT,
    unused: Unused | None = None,
) -> list[Conversation]:
    """Read files, folders and globs of JSON lines.

    Args:
      paths: where; a folder gives its *.jsonl files.
      intents: valid names of intents.
      columns: names of the fields to read, the response last; () = those of the three forms.
      max_unused: largest share of the text that may be in fields that are not read.
      unused: receives what is not used.

    Raises:
      UserError: a faulty line, which it names with file and fix; or too much text is not read.
    """
    unused = unused or Unused()
    conversations = [
        _conversation(row, path, where, intents, columns, unused)
        for path in find_files(paths, SUFFIXES, unused)
        for where, row in json_lines(path)
    ]
    unused.check(max_unused, "name the fields to read: config.data.columns=prompt,response")
    return conversations


def _conversation(row, path: Path, where, intents, columns, unused: Unused) -> Conversation:
    place = place_of(path, where)
    if columns:
        unlabelled = {name: value for name, value in row.items() if name not in LABELS}
        texts = texts_of_row(unlabelled, columns, place, unused)
        turns, answers = [_filled(text, place) for text in texts], (1,)
    elif "messages" in row:
        turns, answers = _messages(row, path, where, unused)  # counts the fields of messages
        others = {name: value for name, value in row.items() if name != "messages"}
        unused.fields(others, LABELS, place)
    else:
        turns, answers = _pair(row, path, where, unused), (1,)
    intent, answerable = row.get("intent") or "", row.get("answerable")
    if intent and intent not in intents:
        raise UserError(f"{place}: unknown intent {intent!r}{did_you_mean(str(intent), intents)}")
    if answerable is not None and not isinstance(answerable, bool):
        raise UserError(f"{place}: field 'answerable' must be true or false, got {answerable!r}")
    return Conversation(tuple(turns), answers, path.stem, intent, answerable)


def _filled(text: Any, place: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place}: expected text in the fields to read, got {text!r:.40}")
    return text.strip()


def _pair(row: dict, path: Path, where: int | str, unused: Unused) -> list[str]:
    """Return [prompt, response] of a line in one of the first two forms."""
    place = place_of(path, where)
    alpaca = "instruction" in row or "output" in row
    if not alpaca and not ("prompt" in row or "response" in row):
        raise UserError(f"{place}: expected the fields {FORMS}; got {names_of(row)}")
    old = alpaca and ("output" in row or "response" not in row)  # HRM-Text's say response
    names = "instruction" if alpaca else "prompt", "output" if old else "response"
    unused.fields(row, (*names, *LABELS, *(("input",) if alpaca else ())), place)
    prompt, response = (_text(row, name, path, where) for name in names)
    if alpaca and row.get("input") is not None:
        prompt = f"{prompt}\n{require(row, 'input', str, path, where)}".strip()
    return [prompt, response]


def _messages(
    row: dict, path: Path, where: int | str, unused: Unused
) -> tuple[list[str], tuple[int, ...]]:
    """Return the turns of a line in the third form, and which ones are the assistant's.

    Consecutive messages of a role are one turn; a system message belongs to the user's next one.
    """
    said = list(_said(require(row, "messages", list, path, where), path, where, unused))
    roles, turns = merged(said)
    answers = tuple(i for i, role in enumerate(roles) if role == "assistant" and i)
    if not answers:
        raise UserError(
            f"{place_of(path, where)}: messages must hold a user's and then an assistant's, "
            f"got {', '.join(roles) or 'none'}"
        )
    unused.add(
        "messages after the last response", place_of(path, where), len(turns) - answers[-1] - 1
    )
    return turns[: answers[-1] + 1], answers


def _said(messages: list, path: Path, where, unused: Unused) -> Iterator[tuple[str, str]]:
    place = place_of(path, where)
    for message in messages:
        role: Any = require(message, "role", str, path, where)
        if role not in ROLES:
            raise UserError(f"{place}: unknown role {role!r}{did_you_mean(role, ROLES)}")
        unused.fields(message, ("role", "content"), place)
        yield "user" if role == "system" else role, _text(message, "content", path, where)


def _text(row: dict, name: str, path: Path, where: int | str) -> str:
    text = require(row, name, str, path, where).strip()
    if not text:
        raise UserError(f"{place_of(path, where)}: the {name} is empty; fill it or remove the line")
    return text
