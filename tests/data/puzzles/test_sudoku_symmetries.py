"""All 3,072 symmetries of 4x4 Sudoku: each is drawn, evenly, and no puzzle is like another else."""

import itertools

import numpy as np
import pytest

from jaxmodels.data.puzzles.sudoku import (
    augment_sudoku,
    augment_words,
    canonical,
    make_sudoku,
    numbers,
    split_sudoku,
    text_of,
)

DIGITS = np.array(list(itertools.permutations(range(1, 5))))


@pytest.fixture(scope="module")
def cells():
    """Return the permutation of cells of each symmetry that keeps digits, (128, 16)."""
    lines = [order for order in itertools.permutations(range(4)) if order[0] // 2 == order[1] // 2]
    assert len(lines) == 8
    where = np.arange(16).reshape(4, 4)
    images = [where[list(rows)][:, list(columns)] for rows in lines for columns in lines]
    return np.array([image.ravel() for w in images for image in (w, w.T)])


def images_of(question, cells):
    """Texts of all puzzles that are the same up to symmetry."""
    names = np.concatenate([np.zeros((24, 1), int), DIGITS], 1)
    images = names[:, np.array(numbers(question))[cells]].reshape(-1, 16)
    return {text_of(image) for image in images.tolist()}


def test_symmetries_are_drawn_uniformly(cells):
    draws, wanted = 12_000, augment_words(2)
    words = np.random.Philox(key=11).random_raw(draws * wanted).reshape(draws, wanted)
    # Two grids of digits, each cell's row and its column, tell together where every cell went.
    rows, columns = np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4)
    place = {tuple(image): number for number, image in enumerate(cells.tolist())}
    of_digits = {tuple(digits): number for number, digits in enumerate(DIGITS.tolist())}
    counts = np.zeros((128, 24), int)
    for row in words:
        moved = augment_sudoku(row, rows + 2, columns + 2, 2)
        # Digits are named alike wherever they stand: read their names off, then undo them.
        names = augment_sudoku(row, np.full(16, 2), np.full(16, 3), 2)
        more = augment_sudoku(row, np.full(16, 4), np.full(16, 5), 2)
        digits = [int(ids[0]) - 1 for ids in (*names, *more)]
        back = np.argsort(digits)
        row_of, column_of = (back[ids - 2] for ids in moved)
        counts[place[tuple(row_of * 4 + column_of)], of_digits[tuple(digits)]] += 1

    def far(table):
        """Return the standard deviations of chi-square above its mean."""
        expected = draws / table.size
        chi = ((table - expected) ** 2 / expected).sum()
        return (chi - (table.size - 1)) / np.sqrt(2 * (table.size - 1))

    assert counts.sum(1).all() and counts.sum(0).all()
    # The draws are fixed, so this is no lottery; 4 is far beyond what even draws give.
    assert max(far(counts), far(counts.sum(0)), far(counts.sum(1))) < 4


def test_missing_cells_stay_missing():
    words = np.random.Philox(key=2).random_raw(augment_words(3))
    question, answer = np.zeros((2, 81), np.int32)
    question[:5] = 1
    moved = augment_sudoku(words, question, answer, 3)
    assert (moved[0] == 1).sum() == 5 and not moved[1].any()
    assert moved[0].dtype == moved[1].dtype == np.int32


def test_canonical_is_the_first_image_and_equal_for_images_only(cells):
    pairs = make_sudoku(2, 60, seed=8)
    wholes = [images_of(pair.question, cells) for pair in pairs]
    for pair, images in zip(pairs, wholes, strict=True):
        first = min(images, key=numbers)
        assert canonical(pair.question) == first == canonical(first)
    for a, b in itertools.combinations(range(60), 2):
        alike = canonical(pairs[a].question) == canonical(pairs[b].question)
        assert alike == (pairs[b].question in wholes[a])


def test_training_contains_no_image_of_an_unseen_puzzle(cells):
    train, unseen = split_sudoku(make_sudoku(2, 400, seed=1), 0.2, 1, 2)
    shown = {pair.question for pair in train}
    assert len(unseen) > 40
    assert not any(images_of(pair.question, cells) & shown for pair in unseen)


def test_puzzles_have_the_requested_number_of_open_cells():
    # 12 are hardly ever reached: puzzles that fell short are left out, not handed on.
    opened = [int(pair.combination[0]) for pair in make_sudoku(2, 20, seed=0, blanks=(11, 12))]
    assert set(opened) == {11, 12}
