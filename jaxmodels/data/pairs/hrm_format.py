"""HRM's dataset format, under the file names of its loader and of its text variant.

    FOLDER/tokenizer.json      the tokenizer, where it is known
    FOLDER/train, FOLDER/test  one folder per split, each with
      dataset.json, all__inputs.npy ...   names of `sapientinc/HRM:puzzle_dataset.py`
      metadata.json, inputs.npy ...       names of the text variant (docs/systems.md, L-34)

A row is an example; a puzzle is one or more consecutive examples, a group one or more puzzles. HRM
draws one puzzle of each group per epoch.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmodels.data.pairs.rows import Rows
from jaxmodels.data.readers.files import json_document, read_text
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.fit import tokenizer_from_json
from jaxmodels.data.tokenizers.special import SEP
from jaxmodels.errors import UserError

IGNORED = -100  # label id of positions without a label
SPLITS = ("train", "test")
TOKENIZER_FILE = "tokenizer.json"
BUILD_FILE = "build.json"  # how the pairs were made
# For each layout: the metadata file, and the file name of an array by set and field.
LAYOUTS = (("dataset.json", "{set}__{field}.npy"), ("metadata.json", "{field}.npy"))


@dataclass(frozen=True)
class Metadata:
    """Metadata of one split: the fields of HRM's `PuzzleDatasetMetadata`.

    Attributes:
      ignore_label_id: id, besides -100, that means "no label"; None: every position has a label.
      total_groups: number of groups over all sets.
    """

    seq_len: int
    vocab_size: int
    pad_id: int
    ignore_label_id: int | None
    blank_identifier_id: int
    num_puzzle_identifiers: int
    total_groups: int
    mean_puzzle_examples: float
    sets: list[str]


class Arrays(NamedTuple):
    """The arrays of one set, all int32.

    Attributes:
      inputs, labels: (n, seq_len).
      puzzle_identifiers: (puzzles,).
      puzzle_indices: (puzzles + 1,), the first example of each puzzle, then n.
      group_indices: (groups + 1,), the first puzzle of each group, then the number of puzzles.
    """

    inputs: np.ndarray
    labels: np.ndarray
    puzzle_identifiers: np.ndarray
    puzzle_indices: np.ndarray
    group_indices: np.ndarray


@dataclass(frozen=True)
class Split:
    """The contents of one split: its metadata, and the arrays of each set by name."""

    metadata: Metadata
    sets: dict[str, Arrays]

    def rows(self, name: str = "all") -> Rows:
        """Return a set as rows for `row_stream`."""
        arrays, m = self.sets[name], self.metadata
        known = (arrays.labels != IGNORED) & (arrays.labels != _ignored(m))
        puzzles = np.diff(arrays.puzzle_indices)
        return Rows(
            arrays.inputs,
            np.where(known, arrays.labels, 0).astype(np.int32),
            known.astype(np.float32),
            np.repeat(arrays.puzzle_identifiers, puzzles),
            np.arange(len(arrays.inputs)),
        )


def arrays_of(rows: Rows, group_sizes: np.ndarray) -> Arrays:
    """Return rows as arrays, each row a puzzle; group_sizes (groups,) counts puzzles per group."""
    puzzles = np.arange(len(rows.inputs) + 1, dtype=np.int32)
    ends = np.cumsum(group_sizes)
    return Arrays(
        rows.inputs,
        np.where(rows.weights > 0, rows.targets, IGNORED).astype(np.int32),
        rows.identifiers,
        puzzles,
        np.concatenate([[0], ends]).astype(np.int32),
    )


def write_split(folder: Path, arrays: Arrays, vocab_size: int) -> None:
    """Write one set "all" in both layouts; metadata last, as the mark of a finished folder."""
    metadata = Metadata(
        seq_len=arrays.inputs.shape[1],
        vocab_size=vocab_size,
        pad_id=0,
        ignore_label_id=IGNORED,
        blank_identifier_id=0,
        num_puzzle_identifiers=1 + int(arrays.puzzle_identifiers.max()),
        total_groups=len(arrays.group_indices) - 1,
        mean_puzzle_examples=len(arrays.inputs) / len(arrays.puzzle_identifiers),
        sets=["all"],
    )
    folder.mkdir(parents=True)
    for _, pattern in LAYOUTS:
        for field, values in arrays._asdict().items():
            np.save(folder / pattern.format(set="all", field=field), values)
    for name, _ in LAYOUTS:
        (folder / name).write_text(json.dumps(dataclasses.asdict(metadata), indent=1) + "\n")


def read_built(folder: Path) -> tuple[dict[str, Split], Tokenizer | None]:
    """Read a folder; return ({split name: contents}, its tokenizer or None).

    Reads either layout; if both exist they must agree. Arrays of any integer type become int32.

    Raises:
      UserError: no split, or a missing, damaged or contradictory file; names the file.
    """
    folder = Path(folder)
    names = [name for name in SPLITS if (folder / name).is_dir()]
    if not names:
        raise UserError(f"{folder}: has no folder {' or '.join(SPLITS)}; name a built dataset")
    splits = {name: _read_split(folder / name) for name in names}
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        return splits, None
    try:
        tokenizer = tokenizer_from_json(read_text(file).decode())
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    for name, split in splits.items():
        if split.metadata.vocab_size != tokenizer.vocab_size:
            raise UserError(
                f"{folder / name}: vocab_size is {split.metadata.vocab_size}, but {TOKENIZER_FILE} "
                f"has {tokenizer.vocab_size} ids; build it again"
            )
    return splits, tokenizer


def question_of(row: np.ndarray) -> np.ndarray:
    """Return the ids before SEP in a row of text ids (seq_len,)."""
    ends = np.flatnonzero(row == SEP)
    return row[: ends[0]] if len(ends) else row


def _read_split(folder: Path) -> Split:
    layouts = [(name, pattern) for name, pattern in LAYOUTS if (folder / name).is_file()]
    if not layouts:
        names = " or ".join(name for name, _ in LAYOUTS)
        raise UserError(f"{folder}: has no {names}; not a dataset, or one that was not finished")
    read = []
    for name, pattern in layouts:
        metadata = _read_metadata(folder / name)
        if pattern == LAYOUTS[1][1] and len(metadata.sets) != 1:
            raise UserError(f"{folder / name}: sets: expected exactly one in this layout")
        sets = {
            of: Arrays(*(_load(folder / pattern.format(set=of, field=f)) for f in Arrays._fields))
            for of in metadata.sets
        }
        for of, arrays in sets.items():
            _check(folder, pattern.replace("{set}", of), arrays, metadata)
        groups = sum(len(arrays.group_indices) - 1 for arrays in sets.values())
        if groups != metadata.total_groups:
            raise UserError(
                f"{folder / name}: total_groups is {metadata.total_groups}, files have {groups}"
            )
        read.append(Split(metadata, sets))
    if len(read) == 2:
        for field in _differences(*read):
            raise UserError(
                f"{folder}: {field} differs between {LAYOUTS[0][0]} and {LAYOUTS[1][0]} with "
                "their files; remove one of the two layouts"
            )
    return read[0]


def _differences(one: Split, other: Split) -> Iterator[str]:
    if one.metadata != other.metadata:
        yield "metadata"
    for name, arrays in one.sets.items():
        for field, first, second in zip(arrays._fields, arrays, other.sets[name], strict=True):
            if not np.array_equal(first, second):
                yield field


def _read_metadata(path: Path) -> Metadata:
    values, _ = json_document(path, dict, "an object with dataset metadata")
    for field in dataclasses.fields(Metadata):
        if field.name not in values:
            raise UserError(f"{path}: field {field.name!r} is missing")
        value = values[field.name]
        if field.name == "sets":
            valid = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
            valid = valid and all(v and Path(v).name == v for v in value)
        elif field.name == "mean_puzzle_examples":
            valid = isinstance(value, int | float) and value > 0
        elif field.name == "ignore_label_id":
            valid = isinstance(value, int | types.NoneType)
        else:
            valid = isinstance(value, int) and value >= 0
        if not valid or isinstance(value, bool):
            raise UserError(f"{path}: field {field.name!r} must not be {value!r:.40}")
    return Metadata(**{field.name: values[field.name] for field in dataclasses.fields(Metadata)})


def _load(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: missing; build the dataset again")
    try:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a header is read as Python: whatever its tokenizer raises
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable array ({reason:.80})") from error
    if not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"{path}: expected integers, got {values.dtype}")
    if values.size and not (-(2**31) <= values.min() and values.max() < 2**31):
        raise UserError(f"{path}: contains integers that do not fit in 32 bits")
    return values.astype(np.int32)


def _check(folder: Path, pattern: str, arrays: Arrays, metadata: Metadata) -> None:
    """Check shapes, index arrays and id ranges."""

    def refuse(field, problem):
        raise UserError(f"{folder / pattern.replace('{field}', field)}: {problem}")

    inputs, labels, identifiers, *indices = arrays
    if inputs.ndim != 2 or not inputs.size or inputs.shape[1] != metadata.seq_len:
        refuse("inputs", f"expected (n, {metadata.seq_len}), got {inputs.shape}")
    if labels.shape != inputs.shape:
        refuse("labels", f"has shape {labels.shape}, inputs {inputs.shape}")
    if identifiers.ndim != 1:
        refuse("puzzle_identifiers", f"expected (puzzles,), got {identifiers.shape}")
    for field, ends, unit, count in zip(
        ("puzzle_indices", "group_indices"),
        indices,
        ("examples", "puzzles"),
        (len(inputs), len(identifiers)),
        strict=True,
    ):
        valid = ends.ndim == 1 and len(ends) > 1 and ends[0] == 0 and ends[-1] == count
        if not valid or (np.diff(ends) <= 0).any():
            refuse(field, f"must increase from 0 to {count} {unit}")
    if len(indices[0]) != len(identifiers) + 1:
        refuse("puzzle_indices", f"expected {len(identifiers) + 1} entries, one more than puzzles")
    for field, values, limit, extra in (
        ("inputs", inputs, metadata.vocab_size, ()),
        ("labels", labels, metadata.vocab_size, (IGNORED, _ignored(metadata))),
        ("puzzle_identifiers", identifiers, metadata.num_puzzle_identifiers, ()),
    ):
        wrong = (values < 0) | (values >= limit)
        for value in extra:
            wrong &= values != value
        if wrong.any():
            refuse(field, f"has {int(values[wrong][0])}, which is not in 0..{limit - 1}")


def _ignored(metadata: Metadata) -> int:
    return IGNORED if metadata.ignore_label_id is None else metadata.ignore_label_id
