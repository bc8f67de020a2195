"""Writer of pairs in HRM's dataset format.

Each question forms one group with all its answers. They never end up on both sides of the split,
and HRM's loader draws one of them per epoch, however often the source repeats the question.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxmodels.data.pairs.hrm_format import (
    BUILD_FILE,
    SPLITS,
    TOKENIZER_FILE,
    arrays_of,
    write_split,
)
from jaxmodels.data.pairs.rows import Pair, lay_out_pairs
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.writing import written_whole


def write_hrm(
    out: Path,
    train: Sequence[Pair],
    test: Sequence[Pair],
    tokenizer: Tokenizer,
    *,
    mode: str,
    seq_len: int,
    skip_long: bool = False,
    origin: Mapping[str, object],
) -> tuple[dict[str, int], int]:
    """Write a new folder, all or nothing; return (rows of each split, number of pairs left out).

    Args:
      mode, seq_len, skip_long: see `lay_out_pairs`.
      origin: JSON values that state how the pairs were made, for `build.json`.

    Raises:
      UserError: `out` exists or cannot be written, or a pair does not fit.
    """
    laid, left_out = {}, 0
    for name, pairs in zip(SPLITS, (train, test), strict=True):
        pairs = _grouped(pairs)
        rows = lay_out_pairs(pairs, tokenizer, mode, seq_len, skip_long=skip_long)
        left_out += len(pairs) - len(rows.kept)
        questions = (pairs[i].question.strip() for i in rows.kept)
        sizes = np.array([len(list(same)) for _, same in itertools.groupby(questions)])
        laid[name] = arrays_of(rows, sizes)
    with written_whole(out, parents=True) as temporary:
        temporary.mkdir()
        for name, arrays in laid.items():
            write_split(temporary / name, arrays, tokenizer.vocab_size)
        for name, text in (
            (TOKENIZER_FILE, tokenizer.to_json()),
            ("identifiers.json", json.dumps(["<blank>"])),  # names of identifiers, as HRM has them
            (BUILD_FILE, json.dumps({**origin, "left_out": left_out}, indent=1)),
        ):
            (temporary / name).write_text(text + "\n", encoding="utf-8")
    return {name: len(arrays.inputs) for name, arrays in laid.items()}, left_out


def _grouped(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs grouped by question, questions in order of appearance."""
    places = {q: n for n, q in enumerate(dict.fromkeys(pair.question.strip() for pair in pairs))}
    return sorted(pairs, key=lambda pair: places[pair.question.strip()])
