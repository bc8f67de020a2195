"""Reader of HRDoc, long documents as trees of lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxmodels.data.readers.files import Record, json_document, require
from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError

# Deeper levels share the last class, so that heads have a fixed number of classes.
NUM_LEVEL_CLASSES = 16
FIELDS = ("text", "line_id", "parent_id", "relation")


def read_hrdoc(path: Path, unused: Unused | None = None) -> Iterator[Record]:
    """Read HRDoc: a file is a document; each line is indented by two spaces per level.

    The level of a line is 0 without parent, its parent's plus one if its relation is `contain`,
    else its parent's (`connect`: same paragraph; `equality`: sibling). Label: `level_targets`.
    """
    unused = unused or Unused()
    lines, _ = json_document(path, list, "a list of lines")
    by_id = {}
    for i, line in enumerate(lines):
        where = f"entry {i}"
        if not isinstance(line, dict):
            raise UserError(
                f"{path}: {where} must be an object with {', '.join(FIELDS)}; correct it"
            )
        require(line, "text", str, path, where)
        require(line, "relation", str, path, where)
        require(line, "parent_id", int, path, where)
        line_id = require(line, "line_id", int, path, where)
        if line_id in by_id or line_id == -1:
            raise UserError(f"{path}: {where}: line_id {line_id} is taken (-1 = no parent)")
        by_id[line_id] = line
        unused.fields(line, FIELDS, f"{path}: {where}")
    levels = _levels(path, by_id)
    text, spans = b"", []
    for line in lines:
        level, start = levels[line["line_id"]], len(text)
        text += b"  " * level + " ".join(line["text"].split()).encode() + b"\n"
        spans.append((start, len(text), min(level, NUM_LEVEL_CLASSES - 1)))
    yield Record(str(path), text, {"level_targets": spans})


def _levels(path: Path, by_id: Mapping[int, dict]) -> dict[int, int]:
    levels = {-1: -1}
    for line_id in by_id:
        chain = []  # ancestors whose level is not known yet
        while line_id not in levels:
            if line_id not in by_id:
                raise UserError(
                    f"{path}: line_id {chain[-1]} has parent_id {line_id}, which is not in "
                    "this document; correct it (-1 = no parent)"
                )
            if line_id in chain:
                raise UserError(f"{path}: line_id {line_id} is its own ancestor; correct parent_id")
            chain.append(line_id)
            line_id = by_id[line_id]["parent_id"]
        for child in reversed(chain):
            parent = by_id[child]["parent_id"]
            deeper = parent == -1 or by_id[child]["relation"] == "contain"
            levels[child] = levels[parent] + deeper
    return levels
