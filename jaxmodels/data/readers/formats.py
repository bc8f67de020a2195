"""`FORMATS`: the readers of official dataset formats.

A line or field that violates its format raises a UserError that names file, line and fix.
`Data/<name>/README.md` documents the formats, their sources and where to place the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxmodels.data.readers.files import (
    TEXT_SUFFIXES,
    Record,
    json_lines,
    numbered_lines,
    place_of,
    read_text,
    require,
)
from jaxmodels.data.readers.hrdoc import read_hrdoc
from jaxmodels.data.readers.metacognition import KINDS, make_metacognition, read_metacognition
from jaxmodels.data.readers.reasoning import read_cot, read_gsm8k
from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError


@dataclass(frozen=True)
class Reader:
    """The reader of one format.

    Attributes:
      read: (file, unused) -> its records; `unused` receives what is not used, and may be omitted.
      suffixes: suffixes of the files to read in a folder.
      labels: names of the labels that the records have.
      kinds: kinds of its records, `Record.kind`.
      make: (count, kinds) -> generated records, where there is a generator.
    """

    read: Callable[..., Iterator[Record]]
    suffixes: tuple[str, ...]
    labels: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    make: Callable[[int, Sequence[str]], list[Record]] | None = None


def read_plain(path: Path, unused: Unused | None = None) -> Iterator[Record]:
    """Read a plain file as one document."""
    del unused  # all of it is read
    yield Record(str(path), read_text(path))


def read_sentences(path: Path, unused: Unused | None = None) -> Iterator[Record]:
    """Read LL: a line, with its line break, is a document."""
    del unused  # blank lines hold no text
    for number, line in numbered_lines(path):
        yield Record(f"{path}:{number}", line.strip().encode() + b"\n")


def read_wikipedia(path: Path, unused: Unused | None = None) -> Iterator[Record]:
    """Read Wikipedia: wikiextractor's JSON lines or <doc> blocks, or plain text.

    An article is a document: title, empty line, text. Articles without text are left out. A file
    that begins with neither "{" nor "<doc " is one plain document.
    """
    unused = unused or Unused()
    start = read_text(path).lstrip()[:5]
    if start.startswith(b"{") or (start.startswith(b"[") and path.suffix.lower() == ".json"):
        for where, row in json_lines(path):
            title, text = (require(row, name, str, path, where) for name in ("title", "text"))
            place = place_of(path, where)
            unused.fields(row, ("title", "text"), place)
            yield from _article(place, title, text, unused)
    elif start == b"<doc ":
        for begun, title, body in _blocks(path, unused):
            yield from _article(f"{path}:{begun}", title, body, unused)
    else:
        yield from read_plain(path)


def _blocks(path: Path, unused: Unused) -> Iterator[tuple[int, str, str]]:
    """Yield (first line, title, text) of the <doc> blocks of a file."""
    title, begun, body = "", 0, []
    for number, line in numbered_lines(path):
        if line.startswith("<doc "):
            if begun:
                raise UserError(f"{path}:{begun}: <doc> without </doc>; extract this file again")
            match = re.search(r'title="(.*?)"', line)
            title, begun, body = match.group(1) if match else "", number, []
        elif line.strip() == "</doc>" and begun:
            yield begun, title, "\n".join(body)
            begun = 0
        elif begun:
            body.append(line)
        else:
            unused.add("lines outside of <doc>", f"{path}:{number}")
    if begun:
        raise UserError(
            f"{path}:{begun}: <doc> without </doc>; the file is cut off; extract it again"
        )


def _article(name: str, title: str, text: str, unused: Unused) -> Iterator[Record]:
    body = text.strip().removeprefix(title).strip()
    if body:
        yield Record(name, f"{title}\n\n{body}\n".encode())
    else:
        unused.add("articles without text", name)


FORMATS = {
    "text": Reader(read_plain, TEXT_SUFFIXES),
    "sentences": Reader(read_sentences, (".txt",)),
    "gsm8k": Reader(read_gsm8k, (".jsonl",), ("step_targets",)),
    "cot": Reader(read_cot, (".json", ".jsonl"), ("step_targets",)),
    "hrdoc": Reader(read_hrdoc, (".json",), ("level_targets",)),
    "metacognition": Reader(read_metacognition, (".jsonl",), (), KINDS, make_metacognition),
    # wikiextractor writes AA/wiki_00 without a suffix.
    "wikipedia": Reader(read_wikipedia, ("", ".json", ".jsonl", ".txt")),
}
