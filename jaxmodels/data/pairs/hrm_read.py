"""Built folders as pairs, so that a run trains on them and is asked as on any other pairs.

Whatever HRM's loader reads can be learned from: rows of one input and its labels, each with the
identifier of its puzzle. All sets of a split are taken together, and an epoch shows every row once
(HRM's shows one puzzle of each group).
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np

from jaxmodels.data.pairs.hrm_format import TOKENIZER_FILE, Split, question_of, read_built
from jaxmodels.data.pairs.layout import read_answer
from jaxmodels.data.pairs.rows import Pair, Rows, lay_out_pairs
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.grid import GridTokenizer
from jaxmodels.data.tokenizers.special import UNK
from jaxmodels.errors import UserError

# Of a grid whose symbols nobody has named: an open cell of HRM's Sudokus, then numbers.
SYMBOLS = ".123456789" + string.ascii_lowercase + string.ascii_uppercase
UNKNOWN = "\ufffd"


def built_pairs(
    folder: str | Path, mode: str, seq_len: int, symbols: str = ""
) -> tuple[dict[str, list[Pair]], Tokenizer]:
    """Read a folder: return (pairs of "train" and of "test", the tokenizer of their ids).

    Args:
      folder: see `read_built`.
      mode, seq_len: of the model that is to read them.
      symbols: of a grid, from id 1; "" takes `SYMBOLS`.

    Raises:
      UserError: a split is missing, or rows are not what such a model would be given; names it.
    """
    splits, tokenizer = read_built(Path(folder))
    if len(splits) < 2:
        raise UserError(f"{folder}: has only {', '.join(splits)}; train and test are needed")
    if tokenizer is None:
        if mode != "grid":
            raise UserError(
                f"{folder}: has no {TOKENIZER_FILE}, so that its ids have no meaning as text; "
                "a model in mode 'grid' can learn from it"
            )
        tokenizer = _grid_tokenizer(folder, splits["train"], symbols)
    found = {}
    for name, split in splits.items():
        where = f"{folder}/{name}"
        m = split.metadata
        if m.seq_len != seq_len:
            raise UserError(
                f"{where}: rows have {m.seq_len} places, but the model reads {seq_len}; set "
                f"--config.seq_len={m.seq_len}"
            )
        if m.vocab_size != tokenizer.vocab_size:
            raise UserError(
                f"{where}: vocab_size is {m.vocab_size}, but that of the puzzle named in "
                f"config.data.tasks is {tokenizer.vocab_size}; name another, or none"
            )
        parts = [split.rows(of) for of in split.sets]
        rows = Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        found[name] = _pairs(rows, tokenizer, mode, Path(folder).name)
        _must_agree(where, rows, found[name], tokenizer, mode)
    return found, tokenizer


def verify(folder: Path) -> str:
    """Describe a folder from its files: shapes, vocabulary, length, leaks (L-38)."""
    splits, tokenizer = read_built(folder)
    text = tokenizer is not None and not isinstance(tokenizer, GridTokenizer)
    lines, asked = [], {}
    for name, split in splits.items():
        m = split.metadata
        lines.append(f"{name}: seq_len {m.seq_len}, vocab_size {m.vocab_size}")
        asked[name] = set()
        for of, arrays in split.sets.items():
            shapes = (f"{field} {values.shape}" for field, values in arrays._asdict().items())
            lines.append(f"  {of}: " + ", ".join(shapes))
            rows = split.rows(of)
            labels = rows.targets[rows.weights > 0]
            unknown = f", {np.mean(labels == UNK):.1%} of them unknown" if text else ""
            lines.append(f"  {len(labels):,} labels{unknown}")
            asked[name] |= {(question_of(row) if text else row).tobytes() for row in arrays.inputs}
            if text:
                lines.append(f"  {_shown(split, of, tokenizer)}")
    if len(asked) == 2:
        lines.append(f"questions on both sides: {len(asked['train'] & asked['test'])}")
    return "\n".join(lines)


def _grid_tokenizer(folder, split: Split, symbols: str) -> GridTokenizer:
    count = split.metadata.vocab_size - 1
    if count > len(SYMBOLS):
        raise UserError(f"{folder}: {count} symbols of a grid, more than {len(SYMBOLS)}")
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
    """Return the text; each unknown token becomes a character that encodes to UNK again."""
    parts = np.split(ids, np.flatnonzero(ids == UNK))
    return UNKNOWN.join(tokenizer.decode(part[part != UNK]) for part in parts)


def _must_agree(where, rows: Rows, pairs, tokenizer: Tokenizer, mode: str) -> None:
    """Raise UserError unless the pairs lay out to exactly the rows that were read."""
    again = lay_out_pairs(pairs, tokenizer, mode, rows.inputs.shape[1])
    for one, other in zip(rows[:3], again[:3], strict=True):
        differs = np.flatnonzero((one != other).any(1))
        if len(differs):
            row = int(differs[0])
            why = "was it built with another --mode?"
            if mode != "grid" and UNK in rows.inputs[row]:
                why = "its tokenizer lacks some of the characters, build it with another"
            raise UserError(
                f"{where}: row {row} ({pairs[row].question[:40]!r}) is not what a model in mode "
                f"{mode!r} reads; {why}"
            )


def _shown(split: Split, of: str, tokenizer: Tokenizer) -> str:
    """Return the first row as text."""
    rows = split.rows(of)
    row, places = rows.inputs[0], np.flatnonzero(rows.weights[0])
    question = tokenizer.decode(question_of(row))
    answer = tokenizer.decode(read_answer(rows.targets[0][places], row[:0]))
    return f"first: {question!r} -> {answer!r}"
