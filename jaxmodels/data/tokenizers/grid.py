"""Tokens of grids: one symbol a cell, ids from 1, 0 for no cell at all (as HRM's datasets)."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from jaxmodels.errors import UserError

SUDOKU9 = ".123456789"  # vocabulary of 11: an open cell is 1, digits are 2 to 10
SUDOKU4 = ".1234"
MAZE = "# SGo"  # wall, free, start, goal, path
NO_CELL = "_"  # of a grid that is smaller than its row; where an answer has it, there is no label


@dataclass(frozen=True)
class GridTokenizer:
    """A symbol a token, and `NO_CELL` for id 0.

    Attributes:
      symbols: id - 1 -> symbol.
    """

    symbols: str
    name: str = "grid"

    def __post_init__(self):
        if not isinstance(self.symbols, str) or not self.symbols:
            raise UserError("symbols: a text of the grid's symbols, one at least")
        if len(set(self.symbols)) != len(self.symbols):
            raise UserError("symbols: must be distinct")
        if NO_CELL in self.symbols:
            raise UserError(f"symbols: {NO_CELL!r} stands for no cell")

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return 1 + len(self.symbols)

    def encode(self, text: str | bytes) -> np.ndarray:
        """(cells,) int32. Raises UserError for a symbol that is none of the grid's."""
        text = text.decode() if isinstance(text, bytes) else text
        every = NO_CELL + self.symbols
        ids = np.array([every.find(symbol) for symbol in text], np.int32)
        if (ids < 0).any():
            wrong = text[int(np.flatnonzero(ids < 0)[0])]
            raise UserError(f"a grid has no symbol {wrong!r}, only {self.symbols!r}")
        return ids

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """(cells,) int32, all 1."""
        return np.ones(len(text), np.int32)

    def decode(self, tokens) -> str:
        """One symbol a cell; "?" for an id that is none."""
        every = NO_CELL + self.symbols
        ids = np.asarray(tokens).ravel()
        return "".join(every[i] if 0 <= i < len(every) else "?" for i in ids)

    def to_json(self) -> str:
        """`{"kind": "grid", "symbols": "..."}`."""
        return json.dumps({"kind": self.name, "symbols": self.symbols})
