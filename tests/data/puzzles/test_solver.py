"""The solver against the 288 grids of 4x4, all known: counts, limits, contradictions, guesses."""

import itertools

import numpy as np
import pytest

from jaxmodels.data.puzzles.solver import is_solution, solve
from jaxmodels.data.puzzles.sudoku import make_sudoku, numbers, text_of


@pytest.fixture(scope="module")
def grids():
    """Return every solved 4x4 grid, (288, 16), by trying all rows."""
    rows = np.array(list(itertools.permutations(range(1, 5))))
    tables = rows[np.array(list(itertools.product(range(24), repeat=4)))]
    wanted = np.arange(1, 5)
    right = (np.sort(tables, 1) == wanted[None, :, None]).all((1, 2))
    blocks = tables.reshape(-1, 2, 2, 2, 2).swapaxes(2, 3).reshape(-1, 4, 4)
    right &= (np.sort(blocks, 2) == wanted[None, None]).all((1, 2))
    assert right.sum() == 288
    return tables[right].reshape(288, 16)


def some_givens(grids, number):
    """A few cells of a solved grid, in every third case with one digit changed."""
    words = np.random.Philox(key=[4, number]).random_raw(20)
    hide = words[:16] % np.uint64(10) < 3 + words[16] % np.uint64(6)
    grid = np.where(hide, 0, grids[int(words[17] % np.uint64(288))])
    if number % 3 == 0:
        grid[int(words[18] % np.uint64(16))] = 1 + int(words[19] % np.uint64(4))
    return grid


def test_solutions_are_counted_up_to_the_limit(grids):
    seen = set()
    for number in range(300):
        grid = some_givens(grids, number)
        fits = grids[((grid == grids) | (grid == 0)).all(1)]
        found, _ = solve(grid.tolist(), 2, limit=1000)
        assert sorted(found) == sorted(fits.tolist())
        for limit in (1, 2, 3):
            assert len(solve(grid.tolist(), 2, limit)[0]) == min(limit, len(fits))
        seen.add(min(len(fits), 4))
    assert seen == {0, 1, 2, 3, 4}  # none, one, some, many: all were met


@pytest.mark.parametrize("twice", [(0, 3), (0, 12), (0, 5)])
def test_contradictory_givens_have_no_solution(twice):
    """A digit is repeated in a row, column or box of an otherwise valid grid."""
    solved = [1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1]
    grid = [0] * 16
    for cell in twice:
        grid[cell] = 1
    assert solve(grid, 2) == ([], 0)
    assert is_solution(solved, 2)
    solved[twice[1]] = solved[twice[0]]
    assert not is_solution(solved, 2)
    assert solve(solved, 2) == ([], 0)


def test_the_order_of_digits_determines_the_first_solution():
    first = solve([0] * 16, 2, 1)[0][0]
    last = solve([0] * 16, 2, 1, order=[4, 3, 2, 1])[0][0]
    assert first[:4] == [1, 2, 3, 4] and last[:4] == [4, 3, 2, 1]


def by_last_candidates(grid, box):
    """Filled in as long as some open cell has one candidate left; what stays open is 0."""
    size = box * box
    table = np.array(grid).reshape(size, size)
    while True:
        left = {}
        for r, c in np.argwhere(table == 0):
            top, start = r // box * box, c // box * box
            block = table[top : top + box, start : start + box]
            taken = {*table[r], *table[:, c], *block.ravel()}
            left[r, c] = set(range(1, size + 1)) - taken
        single = [(cell, digits) for cell, digits in left.items() if len(digits) == 1]
        if not single:
            return text_of(table.ravel().tolist())
        for (r, c), digits in single[:1]:
            table[r, c] = next(iter(digits))


def test_no_guesses_if_single_candidates_suffice():
    """So the guesses tell the puzzles that need thought from those that are filled in."""
    easy = []
    for pair in make_sudoku(3, 12, seed=2, blanks=(45, 54)):
        found, guesses = solve(numbers(pair.question), 3)
        assert found == [numbers(pair.answer)]
        easy.append(guesses == 0)
        assert easy[-1] == (by_last_candidates(numbers(pair.question), 3) == pair.answer)
    assert True in easy and False in easy
