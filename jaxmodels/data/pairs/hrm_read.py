"""HRM datasets as pairs, so that a run trains on them and is evaluated like on any other pairs.

Everything that HRM's loader reads is supported. All sets of a split are concatenated, and an epoch
shows every row once (HRM's shows one puzzle of each group).
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np

from jaxmodels.data.pairs.hrm_format import (
    BUILD_FILE,
    TOKENIZER_FILE,
    Split,
    question_of,
    read_built,
)
from jaxmodels.data.pairs.layout import read_answer
from jaxmodels.data.pairs.rows import Pair, Rows, lay_out_pairs
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.grid import GridTokenizer
from jaxmodels.data.tokenizers.special import UNK
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json

# Symbols of a grid without a tokenizer: an open cell of HRM's Sudokus, then numbers.
SYMBOLS = ".123456789" + string.ascii_lowercase + string.ascii_uppercase
UNKNOWN = "\ufffd"


def built_pairs(
    folder: str | Path, mode: str, seq_len: int, symbols: str = ""
) -> tuple[dict[str, list[Pair]], Tokenizer]:
    """Read a folder; return ({"train": pairs, "test": pairs}, the tokenizer of their ids).

    Args:
      folder: see `read_built`.
      mode, seq_len: mode and row length of the model.
      symbols: symbols of a grid, from id 1; "" = `SYMBOLS`.

    Raises:
      UserError: a split is missing, or its rows are not laid out as the model expects.
    """
    splits, tokenizer = read_built(Path(folder))
    if len(splits) < 2:
        raise UserError(f"{folder}: has only {', '.join(splits)}; expected train and test")
    if tokenizer is None:
        if mode != "grid":
            raise UserError(
                f"{folder}: has no {TOKENIZER_FILE}, so its ids cannot be decoded to text; "
                "use a model in mode 'grid'"
            )
        tokenizer = _grid_tokenizer(folder, splits["train"], symbols)
    pairs = {}
    for name, split in splits.items():
        where = f"{folder}/{name}"
        m = split.metadata
        if m.seq_len != seq_len:
            raise UserError(
                f"{where}: rows have {m.seq_len} tokens, but the model reads {seq_len}; set "
                f"--config.seq_len={m.seq_len}"
            )
        if m.vocab_size != tokenizer.vocab_size:
            raise UserError(
                f"{where}: vocab_size is {m.vocab_size}, but the puzzle named in config.data.tasks "
                f"has {tokenizer.vocab_size}; name another, or none"
            )
        parts = [split.rows(set_name) for set_name in split.sets]
        rows = Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        pairs[name] = _pairs(rows, tokenizer, mode, Path(folder).name)
        _check_round_trip(where, rows, pairs[name], tokenizer, mode)
    return pairs, tokenizer


def built_prefix(folder: str | Path) -> str:
    """Return the text that a build put before each question; "" if no `build.json` names one."""
    try:
        made = decode_json((Path(folder) / BUILD_FILE).read_text(encoding="utf-8"))
        prefix = made["question_prefix"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return prefix if isinstance(prefix, str) else ""


def verify(folder: Path) -> str:
    """Describe a folder: shapes, vocabulary, length, questions on both sides of the split."""
    splits, tokenizer = read_built(folder)
    is_text = tokenizer is not None and not isinstance(tokenizer, GridTokenizer)
    lines, questions = [], {}
    for name, split in splits.items():
        m = split.metadata
        lines.append(f"{name}: seq_len {m.seq_len}, vocab_size {m.vocab_size}")
        questions[name] = set()
        for set_name, arrays in split.sets.items():
            shapes = (f"{field} {values.shape}" for field, values in arrays._asdict().items())
            lines.append(f"  {set_name}: " + ", ".join(shapes))
            rows = split.rows(set_name)
            labels = rows.targets[rows.weights > 0]
            unknown = f", {np.mean(labels == UNK):.1%} of them unknown" if is_text else ""
            lines.append(f"  {len(labels):,} labels{unknown}")
            for row in arrays.inputs:
                questions[name].add((question_of(row) if is_text else row).tobytes())
            if is_text:
                lines.append(f"  {_first_row(rows, tokenizer)}")
    if len(questions) == 2:
        lines.append(f"questions on both sides: {len(questions['train'] & questions['test'])}")
    return "\n".join(lines)


def _grid_tokenizer(folder, split: Split, symbols: str) -> GridTokenizer:
    count = split.metadata.vocab_size - 1
    if count > len(SYMBOLS):
        raise UserError(f"{folder}: {count} grid symbols; {len(SYMBOLS)} are supported")
    return GridTokenizer(symbols or SYMBOLS[:count])


def _pairs(rows: Rows, tokenizer: Tokenizer, mode: str, task: str) -> list[Pair]:
    pairs = []
    for inputs, targets, weights, identifier in zip(*rows[:4], strict=True):
        if mode == "grid":
            question, answer = tokenizer.decode(inputs), tokenizer.decode(targets)
            open_cells = int(((targets != inputs) & (weights > 0)).sum())
            combination = (str(open_cells),)
        else:
            question = _decoded(question_of(inputs), tokenizer)
            answer = _decoded(read_answer(targets[weights > 0], inputs[:0]), tokenizer)
            combination = ()
        pairs.append(Pair(question, answer, task, combination, int(identifier)))
    return pairs


def _decoded(ids: np.ndarray, tokenizer: Tokenizer) -> str:
    """Return the text; unknown tokens become a character that encodes to UNK again."""
    parts = np.split(ids, np.flatnonzero(ids == UNK))
    return UNKNOWN.join(tokenizer.decode(part[part != UNK]) for part in parts)


def _check_round_trip(where, rows: Rows, pairs, tokenizer: Tokenizer, mode: str) -> None:
    """Raise UserError unless the pairs lay out to exactly the rows that were read."""
    again = lay_out_pairs(pairs, tokenizer, mode, rows.inputs.shape[1])
    for one, other in zip(rows[:3], again[:3], strict=True):
        differs = np.flatnonzero((one != other).any(1))
        if len(differs):
            row = int(differs[0])
            hint = "was it built with another --mode?"
            if mode != "grid" and UNK in rows.inputs[row]:
                hint = "its tokenizer lacks some of the characters; build it with another"
            raise UserError(
                f"{where}: row {row} ({pairs[row].question[:40]!r}) is not what a model in mode "
                f"{mode!r} reads; {hint}"
            )


def _first_row(rows: Rows, tokenizer: Tokenizer) -> str:
    row, labelled = rows.inputs[0], rows.weights[0] > 0
    question = tokenizer.decode(question_of(row))
    answer = tokenizer.decode(read_answer(rows.targets[0][labelled], row[:0]))
    return f"first: {question!r} -> {answer!r}"
