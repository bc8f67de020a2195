"""Tokenizers of what is no text: grids, and numbers.

A grid has one symbol per cell, ids from 1; id 0 = no cell (as in HRM's datasets).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxmodels.cli import whole_number
from jaxmodels.data.tokenizers.base import Tokenizer, as_text
from jaxmodels.errors import UserError

SUDOKU9 = ".123456789"  # vocabulary of 11: an open cell is 1, digits are 2 to 10
SUDOKU4 = ".1234"
MAZE = "# SGo"  # wall, free, start, goal, path
NO_CELL = "_"  # fills rows of smaller grids; cells that have it in the answer have no label


@dataclass(frozen=True)
class GridTokenizer(Tokenizer):
    """A tokenizer of grids.

    Attributes:
      symbols: symbol of each id from 1; id 0 is `NO_CELL`.
    """

    symbols: str
    name: str = "grid"

    def __post_init__(self):
        if not isinstance(self.symbols, str) or not self.symbols:
            raise UserError("symbols: must be a non-empty string")
        if len(set(self.symbols)) != len(self.symbols):
            raise UserError("symbols: must be distinct")
        if NO_CELL in self.symbols:
            raise UserError(f"symbols: {NO_CELL!r} is reserved for missing cells")

    @property
    def vocab_size(self) -> int:
        """Return the number of ids."""
        return 1 + len(self.symbols)

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return ids (cells,) int32; raise UserError for an unknown symbol."""
        text = as_text(text)
        every = NO_CELL + self.symbols
        ids = np.array([every.find(symbol) for symbol in text], np.int32)
        if (ids < 0).any():
            wrong = text[int(np.flatnonzero(ids < 0)[0])]
            raise UserError(f"unknown symbol {wrong!r} in a grid, expected {self.symbols!r}")
        return ids

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """Return ones (cells,) int32."""
        return np.ones(len(text), np.int32)

    def decode(self, tokens) -> str:
        """Return one symbol per cell, "?" for an unknown id."""
        every = NO_CELL + self.symbols
        ids = np.asarray(tokens).ravel()
        return "".join(every[i] if 0 <= i < len(every) else "?" for i in ids)


@dataclass(frozen=True)
class IdTokenizer(Tokenizer):
    """A tokenizer of the rows of synthetic tasks: "3 0 12" <-> [3, 0, 12].

    Attributes:
      size: number of ids.
    """

    size: int
    name: str = "ids"

    def __post_init__(self):
        if type(self.size) is not int or self.size < 1:
            raise UserError(f"size: must be a positive integer, got {self.size!r}")

    @property
    def vocab_size(self) -> int:
        """Return the number of ids."""
        return self.size

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return ids (length,) int32; raise UserError for a word that is no id."""
        words = as_text(text).split()
        for word in words:
            if not 0 <= whole_number(word) < self.size:
                raise UserError(
                    f"unknown token {word!r:.80}: write numbers from 0 to {self.size - 1}, with "
                    "spaces between them"
                )
        return np.array([int(word) for word in words], np.int32)

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """Return ones (length,) int32."""
        return np.ones(len(as_text(text).split()), np.int32)

    def decode(self, tokens) -> str:
        """Return the ids as text."""
        return " ".join(str(int(token)) for token in np.asarray(tokens).ravel())
