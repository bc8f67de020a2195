"""`PUZZLES`: the puzzles that a config can name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from jaxmodels.data.pairs.rows import Augmentation, Pair
from jaxmodels.data.puzzles.maze import AUGMENT_WORDS, augment_maze, make_maze, split_mazes
from jaxmodels.data.puzzles.sudoku import augment_sudoku, augment_words, make_sudoku, split_sudoku
from jaxmodels.data.tokenizers.grid import MAZE, SUDOKU4, SUDOKU9


@dataclasses.dataclass(frozen=True)
class Puzzle:
    """A kind of puzzle.

    Attributes:
      cells: cells of a grid, the length of a row.
      symbols: symbols of the `GridTokenizer`.
      make: (count, seed) -> pairs.
      split: (pairs, held_out, seed) -> (train, unseen).
      augmentation: its random symmetries.
    """

    cells: int
    symbols: str
    make: Callable[[int, int], list[Pair]]
    split: Callable[..., tuple[list[Pair], list[Pair]]]
    augmentation: Augmentation


def _sudoku(box: int) -> Puzzle:
    return Puzzle(
        box**4,
        SUDOKU4 if box == 2 else SUDOKU9,
        functools.partial(make_sudoku, box),
        functools.partial(split_sudoku, box=box),
        Augmentation(functools.partial(augment_sudoku, box=box), augment_words(box)),
    )


def _maze(size: int) -> Puzzle:
    change = Augmentation(augment_maze, AUGMENT_WORDS)
    return Puzzle(size * size, MAZE, functools.partial(make_maze, size), split_mazes, change)


PUZZLES = {
    "sudoku4": _sudoku(2),
    "sudoku9": _sudoku(3),
    "maze10": _maze(10),
    "maze30": _maze(30),
}
