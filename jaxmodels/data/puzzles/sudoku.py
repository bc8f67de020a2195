"""Sudokus with a unique solution: generated, augmented and split.

A puzzle and its solution are strings of box^4 symbols, row by row, "." for an open cell. The
`combination` of a puzzle is its number of open cells. Source: the Sudoku dataset of sapientinc/HRM.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from jaxmodels.data.pairs.rows import Pair, split_by_key
from jaxmodels.data.puzzles.solver import solve
from jaxmodels.data.random import random_words
from jaxmodels.errors import UserError


def pair_of(question: str, answer: str, task: str) -> Pair:
    """Return a puzzle and its answer as a pair."""
    return Pair(question, answer, task, (str(question.count(".")),))


def numbers(text: str) -> list[int]:
    """Return the digits of a grid, 0 for an open cell."""
    return [0 if symbol == "." else int(symbol) for symbol in text]


def text_of(grid: Sequence[int]) -> str:
    """Invert `numbers`."""
    return "".join("." if digit == 0 else str(digit) for digit in grid)


def make_sudoku(
    box: int, count: int, seed: int, blanks: tuple[int, int] | None = None
) -> list[Pair]:
    """Make distinct puzzles with a unique solution each.

    Args:
      box: 2 for 4x4, 3 for 9x9.
      count, seed: number of puzzles, and random seed.
      blanks: smallest and largest target number of open cells, drawn uniformly; None means 6 to 12
        of 16, or 30 to 54 of 81. A puzzle has fewer if no further cell can be opened.
    """
    if count < 1:
        raise UserError(f"examples: must be 1 or more, got {count}")
    if box not in (2, 3):
        raise UserError(f"box: must be 2 for 4x4 or 3 for 9x9, got {box}")
    cells = box**4
    low, high = blanks or ((6, 12) if box == 2 else (30, 54))
    if not 1 <= low <= high < cells:
        raise UserError(f"blanks: must satisfy 1 <= low <= high < {cells}, got {low} and {high}")
    answers: dict[str, str] = {}
    grid_words = 2 * box**2 + augment_words(box)
    for number in range(100 * count):
        words = random_words(seed, number, grid_words + cells + 1)
        solution = _full_grid(box, words[:grid_words])
        order = np.argsort(words[grid_words:-1], kind="stable")
        target = low + int(words[-1] % np.uint64(high - low + 1))
        puzzle = _opened(solution, box, order, target)
        if puzzle.count(0) >= low:
            answers.setdefault(text_of(puzzle), text_of(solution))
        if len(answers) == count:
            break
    else:
        raise UserError(f"examples: found only {len(answers)} distinct puzzles, requested {count}")
    return [pair_of(question, answer, f"sudoku{box**2}") for question, answer in answers.items()]


def _full_grid(box: int, words: np.ndarray) -> list[int]:
    """Return a random solved grid: a random first row, completed by the solver, then augmented.

    Without augmentation, grids would be concentrated where the solver searches first.
    """
    size = box * box
    first = (np.argsort(words[:size], kind="stable") + 1).tolist()
    order = (np.argsort(words[size : 2 * size], kind="stable") + 1).tolist()
    solutions, _ = solve(first + [0] * (size * (size - 1)), box, 1, order)
    ids = np.array(solutions[0]) + 1
    return (augment_sudoku(words[2 * size :], ids, ids, box)[1] - 1).tolist()


def _opened(solution: list[int], box: int, order: np.ndarray, target: int) -> list[int]:
    """Open cells of a solution in this order while it stays unique, `target` at most."""
    grid, count = list(solution), 0
    for cell in order:
        if count == target:
            break
        grid[cell] = 0
        if len(solve(grid, box, 2)[0]) == 1:
            count += 1
        else:
            grid[cell] = solution[cell]
    return grid


def augment_words(box: int) -> int:
    """Return the number of random words that `augment_sudoku` needs."""
    return box**2 + 2 * (box + box**2) + 1


def augment_sudoku(words: np.ndarray, question: np.ndarray, answer: np.ndarray, box: int):
    """Apply a random symmetry: digits, bands and rows, stacks and columns, transposition.

    Args:
      words: uint64 (augment_words(box),).
      question, answer: ids (box^4,) of a `GridTokenizer`: 1 = open, 2 = digit 1, ...

    Returns:
      (question, answer), transformed alike.
    """
    size = box * box
    digits = np.argsort(words[:size], kind="stable")
    mapped = np.concatenate([[0, 1], digits + 2]).astype(question.dtype)
    rest = words[size:-1].reshape(2, box + size)
    rows, columns = (_lines(part, box) for part in rest)
    where = np.arange(size * size).reshape(size, size)
    where = where[rows][:, columns]
    if words[-1] & np.uint64(1):
        where = where.T
    where = where.ravel()
    return mapped[question[where]], mapped[answer[where]]


def _lines(words: np.ndarray, box: int) -> np.ndarray:
    """Return a random order of rows that keeps bands together."""
    bands = np.argsort(words[:box], kind="stable")
    inside = np.argsort(words[box:].reshape(box, box), axis=1, kind="stable")
    return (bands[:, None] * box + inside[bands]).ravel()


@functools.cache
def _symmetries(box: int) -> np.ndarray:
    """Return all permutations of cells that are symmetries, (images, box^4)."""
    orders = []
    inner = list(itertools.permutations(range(box)))
    for bands in inner:
        for parts in itertools.product(inner, repeat=box):
            orders.append([band * box + i for band in bands for i in parts[band]])
    where = np.arange(box**4).reshape(box * box, box * box)
    images = [where[rows][:, columns] for rows in orders for columns in orders]
    return np.array([image.ravel() for w in images for image in (w, w.T)])


def canonical(question: str) -> str:
    """Return the alphabetically first 4x4 puzzle that equals this one up to symmetry."""
    grids = np.array(numbers(question))[_symmetries(2)]
    renamed = np.zeros_like(grids)
    next_name = np.ones(len(grids), int)
    names = np.zeros((len(grids), 5), int)
    every = np.arange(len(grids))
    for cell in range(grids.shape[1]):
        digit = grids[:, cell]
        new = (digit > 0) & (names[every, digit] == 0)
        names[every[new], digit[new]] = next_name[new]
        next_name[new] += 1
        renamed[:, cell] = np.where(digit > 0, names[every, digit], 0)
    return text_of(min(map(tuple, renamed)))


def split_sudoku(pairs: Sequence[Pair], held_out: float, seed: int, box: int):
    """Return (train, unseen), split by puzzle up to symmetry (4x4) or by solution (9x9).

    Augmentation can then not turn a training puzzle into an unseen 4x4 puzzle. All 4x4 solutions
    occur in training, since there are only two up to symmetry. A 9x9 file may have several puzzles
    with the same solution, which stay together.

    Raises:
      UserError: puzzles of another size.
    """
    if any(len(pair.question) != box**4 for pair in pairs):
        raise UserError(f"expected puzzles of {box**4} cells; sudoku4 is 4x4, sudoku9 is 9x9")
    keys = [canonical(pair.question) if box == 2 else pair.answer for pair in pairs]
    return split_by_key(pairs, keys, held_out, seed, use=77)
