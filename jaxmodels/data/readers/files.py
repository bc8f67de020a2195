"""File discovery, text and JSON reading, and the records that readers return.

Every fault of a file is a UserError of one line that names the location and the fix.
"""

from __future__ import annotations

import glob
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxmodels.data.readers.folders import files_of_folder, files_of_pattern
from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json
from jaxmodels.paths import is_dir, is_file, shown, user_path

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex", ".csv", ".tsv", ".json", ".jsonl")
# Byte order marks; the first that fits counts: one of UTF-32 begins with one of UTF-16.
MARKS = {
    "UTF-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"),
    "UTF-16": (b"\xff\xfe", b"\xfe\xff"),
}
# First bytes of files that hold text which has to be got out first.
PACKED = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "Zstandard": b"\x28\xb5\x2f\xfd",
    "zip": b"PK\3\4",
    "PDF": b"%PDF-",
    "Parquet": b"PAR1",
}

Span = tuple[int, int, int]  # first byte, byte after the last, label


@dataclass(frozen=True)
class Record:
    """A document before tokenization.

    Attributes:
      name: file and, if it has several documents, line or key.
      text: UTF-8 bytes.
      spans: label name -> byte spans; other bytes have no label.
      kind: of which kind it is, in a format that has kinds.
    """

    name: str
    text: bytes
    spans: Mapping[str, Sequence[Span]] = field(default_factory=dict)
    kind: str = ""

    def slice(self, start: int, stop: int, suffix: str) -> Record:
        """Return bytes [start, stop) as a record."""
        spans = {
            name: [
                (max(a, start) - start, min(b, stop) - start, value)
                for a, b, value in spans
                if a < stop and b > start
            ]
            for name, spans in self.spans.items()
        }
        return Record(f"{self.name}:{suffix}", self.text[start:stop], spans, self.kind)


def find_files(
    paths: Sequence[str | Path],
    suffixes: Sequence[str] = TEXT_SUFFIXES,
    unused: Unused | None = None,
) -> list[Path]:
    """Resolve files, folders and globs to distinct files, sorted within each.

    A folder gives its files with one of `suffixes` ('' = no suffix), recursively, without hidden
    ones. A glob may contain `**`. A file that is named itself may have any suffix.

    Args:
      paths: where.
      suffixes: of the files of a folder.
      unused: receives what is left out.

    Raises:
      UserError: a path that does not exist, a folder that cannot be read, or a folder or glob
        without files.
    """
    unused = unused or Unused()
    distinct: dict[Path, Path] = {}
    for name in [paths] if isinstance(paths, str | Path) else paths:
        path = user_path(name)
        if is_file(path):
            files = [path]
        elif is_dir(path):
            files = files_of_folder(path, suffixes, unused)
            if not files:
                patterns = " ".join("*" + suffix for suffix in suffixes)
                raise UserError(f"{name}: no text file in this folder (looked for {patterns})")
        elif glob.has_magic(str(name)):
            files = files_of_pattern(str(path), unused)
            if not files:
                raise UserError(f"{name}: no file matches this pattern; check it, or quote it")
        else:
            raise UserError(f"{shown(name)}: no such file or folder (working folder {Path.cwd()})")
        for file in files:
            if distinct.setdefault(file.resolve(), file) is not file:
                unused.add("files that are named twice", file)
    return list(distinct.values())


def read_text(path: Path) -> bytes:
    """Return the file's UTF-8 bytes, without a byte order mark.

    Raises:
      UserError: unreadable, empty, or not text; names offset and line of the first bad byte.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    zero, text = data.find(b"\0"), ""
    try:
        text = data.decode("utf-8")
        fault = ""
    except UnicodeDecodeError as error:
        byte = data[error.start]
        fault = f"not UTF-8 text, byte 0x{byte:02x} at {_place(data, error.start)}; "
        fault += "convert it to UTF-8 (for example with iconv) or leave it out"
    if zero >= 0:
        kind = next((name for name, marks in MARKS.items() if data.startswith(marks)), None)
        fix = f"looks like {kind}, convert it to UTF-8" if kind else "give a UTF-8 text file"
        fault = f"binary file, NUL byte at {_place(data, zero)}; {fix}"
    if fault:
        packed = next((name for name, mark in PACKED.items() if data.startswith(mark)), None)
        fault = f"a {packed} file, not text; unpack or convert it first" if packed else fault
        raise UserError(f"{path}: {fault}")
    if not text or text.isspace():  # of all alphabets: readers then find no line
        raise UserError(f"{path}: the file is empty; remove it from the list or fill it")
    return data


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number from 1, text without line end) of every non-blank line."""
    lines = read_text(path).decode("utf-8").split("\n")
    return [(n, line.rstrip("\r")) for n, line in enumerate(lines, 1) if line.strip()]


def json_lines(path: Path) -> Iterator[tuple[int | str, dict]]:
    """Yield (line number, object) of a file with one JSON object per line.

    A .json file may also hold one array of objects; then "entry 0" stands for the line number.
    """
    if path.suffix.lower() == ".json" and read_text(path).lstrip()[:1] == b"[":
        rows, _ = json_document(path, list, "an array of JSON objects")
        numbered = ((f"entry {i}", row) for i, row in enumerate(rows))
    else:
        numbered = (
            (number, parse_json(line, path, number, "one JSON object per line"))
            for number, line in numbered_lines(path)
        )
    for where, row in numbered:
        if not isinstance(row, dict):
            raise UserError(f"{place_of(path, where)}: expected a JSON object, got {_short(row)}")
        yield where, row


def json_document(path: Path, kind: type, expected: str) -> tuple[Any, str]:
    """Return the JSON value of a file, of type `kind`, and its text."""
    text = read_text(path).decode("utf-8")
    value = parse_json(text, path, 1, expected)
    if not isinstance(value, kind):
        raise UserError(f"{path}: expected {expected}, got a JSON {type(value).__name__}")
    return value, text


_HALF = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
_ALONE = re.compile(f"{_HALF[0]}(?!{_HALF[1]})|(?<!{_HALF[0]}){_HALF[1]}")  # half a pair


def parse_json(text: str, path: Path, line: int, expected: str) -> Any:
    """Return the value of a JSON text.

    Args:
      text: the text, which begins in line `line` of the file.
      path, line, expected: for messages.

    Raises:
      UserError: not JSON, a name twice in an object, or half a surrogate pair, which is no
        character and cannot be written.
    """
    try:
        value = decode_json(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{line + error.lineno - 1}: not valid JSON, {error.msg} at column "
            f"{error.colno}; expected {expected}"
        ) from error
    except ValueError as error:  # also numbers of thousands of digits
        raise UserError(f"{path}:{line}: JSON that cannot be read, {error}; correct it") from error
    if _ESCAPED.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            alone = _ALONE.search(text)
            at = line + text.count("\n", 0, alone.start() if alone else 0)
            raise UserError(
                f"{path}:{at}: an unpaired surrogate, which is not a character; correct it"
            ) from error
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r:.40} is twice in an object")
    return row


def place_of(path: Path, where: int | str) -> str:
    """Return the name of a place in a file; `where` is a line number or names the row."""
    return f"{path}:{where}" if isinstance(where, int) else f"{path}: {where}"


def require(row: dict, name: str, kind: type, path: Path, where: int | str) -> Any:
    """Return `row[name]`, of type `kind`; `where` is a line number or names the row."""
    place = place_of(path, where)
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected an object with the field {name!r}, got {_short(row)}")
    if name not in row:
        raise UserError(f"{place}: field {name!r} is missing (found: {names_of(row)}); add it")
    if not isinstance(row[name], kind) or isinstance(row[name], bool):
        raise UserError(f"{place}: field {name!r} must be {kind.__name__}, got {_short(row[name])}")
    return row[name]


def names_of(row: Iterable[str]) -> str:
    """Return the names of a row's fields for a message, "none" without any."""
    listed = ", ".join(name if name.isprintable() else repr(name) for name in row)
    return (listed if len(listed) <= 200 else f"{listed[:200]}...") or "none"


def _short(value: Any) -> str:
    return reprlib.repr(value)


def _place(data: bytes, offset: int) -> str:
    line = data.count(b"\n", 0, offset) + 1
    return f"offset {offset} (line {line})"
