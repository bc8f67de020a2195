"""Sudokus: one solution each, and symmetries that keep it."""

import itertools

import numpy as np
import pytest

from jaxmodels.data.puzzles.kinds import PUZZLES
from jaxmodels.data.puzzles.solver import is_solution, solve
from jaxmodels.data.puzzles.sudoku import (
    augment_sudoku,
    augment_words,
    canonical,
    make_sudoku,
    numbers,
    pair_of,
    split_sudoku,
)
from jaxmodels.data.tokenizers.fit import tokenizer_from_json
from jaxmodels.data.tokenizers.grid import SUDOKU4, SUDOKU9, GridTokenizer
from jaxmodels.errors import UserError

TOKENS = {2: GridTokenizer(SUDOKU4), 3: GridTokenizer(SUDOKU9)}


def by_brute_force(grid):
    """All solutions of a 4x4 grid, by trying every filling of every row."""
    rows = list(itertools.permutations(range(1, 5)))
    fits = [
        [row for row in rows if all(g in (0, d) for g, d in zip(grid[4 * r :], row, strict=False))]
        for r in range(4)
    ]
    return [
        [d for row in chosen for d in row]
        for chosen in itertools.product(*fits)
        if is_solution([d for row in chosen for d in row], 2)
    ]


def test_solution_counts_equal_brute_force():
    puzzles = [numbers(pair.question) for pair in make_sudoku(2, 20, 5)]
    for i, grid in enumerate(puzzles):
        given = [c for c, digit in enumerate(grid) if digit]
        grid[given[i % len(given)]] = 0  # some have now several solutions
        expected = by_brute_force(grid)
        found, _ = solve(grid, 2, limit=1000)
        assert sorted(found) == sorted(expected)
    assert len(solve([0] * 16, 2, limit=1000)[0]) == 288
    assert solve([1, 1] + [0] * 14, 2)[0] == []


@pytest.mark.parametrize("box", [2, 3])
def test_puzzles_are_distinct_and_have_one_solution(box):
    pairs = make_sudoku(box, 60 if box == 2 else 6, seed=3)
    assert len({pair.question for pair in pairs}) == len(pairs)
    for pair in pairs:
        found, _ = solve(numbers(pair.question), box, limit=2)
        assert found == [numbers(pair.answer)] and is_solution(found[0], box)
        assert pair.combination == (str(pair.question.count(".")),)
    assert make_sudoku(box, 3, seed=3) == pairs[:3] != make_sudoku(box, 3, seed=4)


def test_solved_grids_are_diverse():
    # There are 288; 600 draws of all with equal chance would show 252 of them on average.
    answers = {pair.answer for pair in make_sudoku(2, 600, seed=0)}
    assert len(answers) > 220


@pytest.mark.parametrize("box", [2, 3])
def test_symmetries_preserve_the_unique_solution(box):
    tokens = TOKENS[box]
    for number, pair in enumerate(make_sudoku(box, 8 if box == 2 else 3, seed=1)):
        for draw in range(20 if box == 2 else 4):
            words = np.random.Philox(key=[number, draw]).random_raw(augment_words(box))
            question, answer = augment_sudoku(
                words, tokens.encode(pair.question), tokens.encode(pair.answer), box
            )
            found, _ = solve(numbers(tokens.decode(question)), box, limit=2)
            assert found == [numbers(tokens.decode(answer))]
            assert (question == 1).sum() == pair.question.count(".")
    nothing = np.arange(augment_words(box), dtype=np.uint64) * np.uint64(2)  # all in order
    same = augment_sudoku(nothing, question, answer, box)
    np.testing.assert_array_equal(same, (question, answer))


def test_canonical_forms_are_equal_exactly_for_symmetric_puzzles():
    tokens = TOKENS[2]
    pairs = make_sudoku(2, 40, seed=2)
    for number, pair in enumerate(pairs):
        words = np.random.Philox(key=[9, number]).random_raw(augment_words(2))
        question = augment_sudoku(
            words, tokens.encode(pair.question), tokens.encode(pair.answer), 2
        )
        assert canonical(tokens.decode(question[0])) == canonical(pair.question)
    blanks = {}
    for pair in pairs:
        blanks.setdefault(canonical(pair.question), set()).add(pair.combination)
    assert all(len(counts) == 1 for counts in blanks.values()) and len(blanks) > 20


def test_unseen_puzzles_are_new_up_to_symmetry():
    pairs = make_sudoku(2, 300, seed=0)
    train, unseen = split_sudoku(pairs, 0.2, 0, 2)
    assert len(train) + len(unseen) == 300 and 20 < len(unseen) < 120
    shown = {canonical(pair.question) for pair in train}
    assert not shown & {canonical(pair.question) for pair in unseen}


def test_unseen_9x9_puzzles_have_unseen_solutions():
    # Two puzzles of each solution: told apart by puzzle, most solutions would stand on both sides.
    pairs = make_sudoku(3, 20, seed=0)
    easier = []
    for pair in pairs:
        cell = pair.question.index(".")
        question = pair.question[:cell] + pair.answer[cell] + pair.question[cell + 1 :]
        easier.append(pair_of(question, pair.answer, pair.task))
    train, unseen = split_sudoku(pairs + easier, 0.3, 0, 3)
    assert len(train) == 28 and len(unseen) == 12
    assert not {pair.answer for pair in train} & {pair.answer for pair in unseen}


def test_invalid_sizes():
    with pytest.raises(UserError, match="2 for 4x4 or 3 for 9x9, got 4"):
        make_sudoku(4, 1, 0)
    with pytest.raises(UserError, match="expected puzzles of 16 cells"):
        split_sudoku(make_sudoku(3, 1, 0), 0.5, 0, 2)


def test_grid_tokens():
    tokens = TOKENS[3]
    assert tokens.vocab_size == 11 and tokens.encode(".19").tolist() == [1, 2, 10]
    assert tokens.decode(tokens.encode("1.9")) == "1.9" and tokens.decode([0, 11]) == "_?"
    assert tokenizer_from_json(tokens.to_json()) == tokens
    with pytest.raises(UserError, match="unknown symbol 'x'"):
        tokens.encode("1x")


@pytest.mark.parametrize("name", PUZZLES)
def test_puzzles_fit_their_grid(name):
    puzzle = PUZZLES[name]
    tokens = GridTokenizer(puzzle.symbols)
    pairs = puzzle.make(4, 0)
    for pair in pairs:
        ids = tokens.encode(pair.question), tokens.encode(pair.answer)
        assert len(ids[0]) == len(ids[1]) == puzzle.cells
        words = np.random.Philox(key=1).random_raw(puzzle.augmentation.words)
        changed = puzzle.augmentation.apply(words, *ids)
        assert changed[0].shape == changed[1].shape == (puzzle.cells,)
    train, unseen = puzzle.split(pairs, 0.5, 0)
    assert len(train) + len(unseen) == 4
