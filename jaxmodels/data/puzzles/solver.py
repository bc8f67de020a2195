"""Sudoku solver: backtracking over bit masks, the cell with fewest candidates first."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np


@functools.cache
def units_of(box: int) -> tuple[tuple[int, int, int], ...]:
    """Return the (row, column, box) of every cell of a box^2 x box^2 grid."""
    size = box * box
    return tuple((r, c, r // box * box + c // box) for r in range(size) for c in range(size))


def solve(
    grid: Sequence[int],
    box: int,
    limit: int = 2,
    order: Sequence[int] | None = None,
    most_guesses: float = math.inf,
):
    """Return the first solutions of a grid, and the number of guesses.

    Args:
      grid: box^4 numbers, 0 for an open cell.
      box: 2 for 4x4, 3 for 9x9.
      limit: maximum number of solutions.
      order: order in which the digits 1 to box^2 are tried; None means ascending.
      most_guesses: number of guesses after which the search is given up.

    Returns:
      (solutions, each a list; number of cells with several candidates that were branched on).
    """
    size, units = box * box, units_of(box)
    full = (1 << size) - 1
    rows, columns, boxes = [full] * size, [full] * size, [full] * size
    cells = list(grid)
    for cell, digit in enumerate(cells):
        if digit:
            r, c, b = units[cell]
            bit = 1 << (digit - 1)
            if not rows[r] & columns[c] & boxes[b] & bit:
                return [], 0
            rows[r] ^= bit
            columns[c] ^= bit
            boxes[b] ^= bit
    digits = list(range(1, size + 1)) if order is None else list(order)
    solutions: list[list[int]] = []
    guesses = 0
    is_open = [cell for cell, digit in enumerate(cells) if not digit]

    def search() -> None:
        nonlocal guesses
        best, fewest, at = -1, size + 1, 0
        for i, cell in enumerate(is_open):
            r, c, b = units[cell]
            mask = rows[r] & columns[c] & boxes[b]
            count = mask.bit_count()
            if count < fewest:
                best, fewest, at = cell, count, i
                if count <= 1:
                    break
        if best < 0:
            solutions.append(cells.copy())
            return
        if not fewest:
            return
        guesses += fewest > 1
        is_open[at] = is_open[-1]
        is_open.pop()
        r, c, b = units[best]
        for digit in digits:
            bit = 1 << (digit - 1)
            if rows[r] & columns[c] & boxes[b] & bit:
                cells[best] = digit
                rows[r] ^= bit
                columns[c] ^= bit
                boxes[b] ^= bit
                search()
                rows[r] ^= bit
                columns[c] ^= bit
                boxes[b] ^= bit
                if len(solutions) >= limit or guesses >= most_guesses:
                    break
        cells[best] = 0
        is_open.append(best)
        is_open[at], is_open[-1] = is_open[-1], is_open[at]

    search()
    return solutions, guesses


def is_solution(grid: Sequence[int], box: int) -> bool:
    """Return whether every digit occurs once in each row, column and box."""
    size = box * box
    table = np.asarray(grid).reshape(size, size)
    blocks = table.reshape(box, box, box, box).swapaxes(1, 2).reshape(size, size)
    digits = np.arange(1, size + 1)
    return all((np.sort(part, 1) == digits).all() for part in (table, table.T, blocks))
