"""`FORMATS`: the readers of official dataset formats.

A line or field that violates its format raises a UserError that names file, line and fix.
`Data/<name>/README.md` documents the formats, their sources and where to place the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxmodels.data.readers.files import (
    TEXT_SUFFIXES,
    Record,
    json_lines,
    numbered_lines,
    read_text,
    require,
)
from jaxmodels.data.readers.hrdoc import read_hrdoc
from jaxmodels.data.readers.metacognition import read_metacognition
from jaxmodels.data.readers.reasoning import read_cot, read_gsm8k
from jaxmodels.errors import UserError


@dataclass(frozen=True)
class Reader:
    """The reader of one format.

    Attributes:
      read: returns the records of a file.
      suffixes: suffixes of the files to read in a folder.
      labels: names of the labels that the records have.
    """

    read: Callable[[Path], Iterator[Record]]
    suffixes: tuple[str, ...]
    labels: tuple[str, ...] = ()


def read_plain(path: Path) -> Iterator[Record]:
    """Read a plain file as one document."""
    yield Record(str(path), read_text(path))


def read_sentences(path: Path) -> Iterator[Record]:
    """Read LL: a line, with its line break, is a document."""
    for number, line in numbered_lines(path):
        yield Record(f"{path}:{number}", line.strip().encode() + b"\n")


def read_wikipedia(path: Path) -> Iterator[Record]:
    """Read Wikipedia: wikiextractor's JSON lines or <doc> blocks, or plain text.

    An article is a document: title, empty line, text. Articles without text are left out. A file
    that begins with neither "{" nor "<doc " is one plain document.
    """
    start = read_text(path).lstrip()[:5]
    if start.startswith(b"{"):
        for number, row in json_lines(path):
            title = require(row, "title", str, path, number)
            yield from _article(f"{path}:{number}", title, require(row, "text", str, path, number))
    elif start == b"<doc ":
        title, begun, body = "", 0, []
        for number, line in numbered_lines(path):
            if line.startswith("<doc "):
                if begun:
                    raise UserError(
                        f"{path}:{begun}: <doc> without </doc>; extract this file again"
                    )
                match = re.search(r'title="(.*?)"', line)
                title, begun, body = match.group(1) if match else "", number, []
            elif line.strip() == "</doc>":
                yield from _article(f"{path}:{begun}", title, "\n".join(body))
                begun = 0
            else:
                body.append(line)
        if begun:
            raise UserError(
                f"{path}:{begun}: <doc> without </doc>; the file is cut off; extract it again"
            )
    else:
        yield from read_plain(path)


def _article(name: str, title: str, text: str) -> Iterator[Record]:
    body = text.strip().removeprefix(title).strip()
    if body:
        yield Record(name, f"{title}\n\n{body}\n".encode())


FORMATS = {
    "text": Reader(read_plain, TEXT_SUFFIXES),
    "sentences": Reader(read_sentences, (".txt",)),
    "gsm8k": Reader(read_gsm8k, (".jsonl",), ("step_targets",)),
    "cot": Reader(read_cot, (".json", ".jsonl"), ("step_targets",)),
    "hrdoc": Reader(read_hrdoc, (".json",), ("level_targets",)),
    "metacognition": Reader(read_metacognition, (".jsonl",)),
    # wikiextractor writes AA/wiki_00 without a suffix.
    "wikipedia": Reader(read_wikipedia, ("", ".json", ".jsonl", ".txt")),
}
