"""File discovery, text and JSON reading, and the records that readers return.

Every fault of a file is a UserError of one line that names the location and the fix.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxmodels.errors import UserError
from jaxmodels.paths import is_dir, is_file, shown, user_path

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex", ".csv", ".tsv", ".json", ".jsonl")

Span = tuple[int, int, int]  # first byte, byte after the last, label


@dataclass(frozen=True)
class Record:
    """A document before tokenization.

    Attributes:
      name: file and, if it has several documents, line or key.
      text: UTF-8 bytes.
      spans: label name -> byte spans; other bytes have no label.
    """

    name: str
    text: bytes
    spans: Mapping[str, Sequence[Span]] = field(default_factory=dict)

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
        return Record(f"{self.name}:{suffix}", self.text[start:stop], spans)


def find_files(paths: Sequence[str | Path], suffixes: Sequence[str] = TEXT_SUFFIXES) -> list[Path]:
    """Resolve files, folders and globs to distinct files, sorted within each.

    A folder gives its files with one of `suffixes` ('' = no suffix), recursively, without hidden
    ones. A glob may contain `**`. A file that is named itself may have any suffix.

    Raises:
      UserError: a path that does not exist, or a folder or glob without files.
    """
    distinct: dict[Path, Path] = {}
    for name in [paths] if isinstance(paths, str | Path) else paths:
        path = user_path(name)
        if is_file(path):
            files = [path]
        elif is_dir(path):
            files = [file for file in sorted(path.rglob("*")) if _is_listed(file, path, suffixes)]
            if not files:
                patterns = " ".join("*" + suffix for suffix in suffixes)
                raise UserError(f"{name}: no text file in this folder (looked for {patterns})")
        elif glob.has_magic(str(name)):
            files = [Path(f) for f in sorted(glob.glob(str(path), recursive=True))]
            files = [file for file in files if file.is_file()]
            if not files:
                raise UserError(f"{name}: no file matches this pattern; check it, or quote it")
        else:
            raise UserError(f"{shown(name)}: no such file or folder (working folder {Path.cwd()})")
        for file in files:
            distinct.setdefault(file.resolve(), file)
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
    if not data.strip():
        raise UserError(f"{path}: the file is empty; remove it from the list or fill it")
    zero = data.find(b"\0")
    if zero >= 0:
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        fix = "looks like UTF-16, convert it to UTF-8" if utf16 else "give a UTF-8 text file"
        raise UserError(f"{path}: binary file, NUL byte at {_place(data, zero)}; {fix}")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise UserError(
            f"{path}: not UTF-8 text, byte 0x{byte:02x} at {_place(data, error.start)}; "
            "convert it to UTF-8 (for example with iconv) or leave it out"
        ) from error
    return data


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number from 1, text without line end) of every non-blank line."""
    lines = read_text(path).decode("utf-8").split("\n")
    return [(n, line.rstrip("\r")) for n, line in enumerate(lines, 1) if line.strip()]


def json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number, object) of a file with one JSON object per line."""
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}:{number}: not valid JSON, {error.msg} at column {error.colno}; "
                "expected one JSON object per line"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, got {line[:40]!r}")
        yield number, row


def json_document(path: Path, kind: type, expected: str) -> tuple[Any, str]:
    """Return the JSON value of a file, of type `kind`, and its text."""
    text = read_text(path).decode("utf-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not valid JSON, {error.msg} at column {error.colno}; "
            f"expected {expected}"
        ) from error
    if not isinstance(value, kind):
        raise UserError(f"{path}: expected {expected}, got a JSON {type(value).__name__}")
    return value, text


def require(row: dict, name: str, kind: type, path: Path, where: int | str) -> Any:
    """Return `row[name]`, of type `kind`; `where` is a line number or names the row."""
    place = f"{path}:{where}" if isinstance(where, int) else f"{path}: {where}"
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected an object with the field {name!r}, got {row!r:.40}")
    if name not in row:
        raise UserError(
            f"{place}: field {name!r} is missing (found: {', '.join(row) or 'none'}); add it"
        )
    if not isinstance(row[name], kind) or isinstance(row[name], bool):
        raise UserError(f"{place}: field {name!r} must be {kind.__name__}, got {row[name]!r:.40}")
    return row[name]


def _is_listed(file: Path, folder: Path, suffixes: Sequence[str]) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden and file.suffix.lower() in suffixes


def _place(data: bytes, offset: int) -> str:
    line = data.count(b"\n", 0, offset) + 1
    return f"offset {offset} (line {line})"
