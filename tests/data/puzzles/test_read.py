"""Puzzles from files: columns by name, malformed rows by line, Sudokus with several solutions."""

import json

import pytest

from jaxmodels.data.puzzles.kinds import PUZZLES
from jaxmodels.data.puzzles.read import read_puzzles
from jaxmodels.data.puzzles.sudoku import make_sudoku, split_sudoku
from jaxmodels.data.tokenizers.grid import SUDOKU4, SUDOKU9
from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError
from tests.convert.common import DATA

PAIR, OTHER = make_sudoku(3, 2, 0)


def read(path, columns=(), **options):
    return read_puzzles([path], 81, SUDOKU9, columns, **options)


def csv_of(folder, header, *rows):
    path = folder / "a.csv"
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in (header, *rows) if row))
    return path


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (("source", "question", "answer", "rating"), ("x", "Q", "A", 3)),
        (("Source", "Question", "Answer", "Rating"), ("x", "Q", "A", 3)),
        (("rating", "answer", "source", "question"), (3, "A", "x", "Q")),
        (("quizzes", "solutions"), ("Q", "A")),
        (("puzzle", "solution"), ("Q", "A")),
        (("id", "puzzle", "solution", "clues", "difficulty"), (1, "Q", "A", 24, 2.2)),
        ((), ("x", "Q", "A", 3)),
        ((), ("Q", "A")),
    ],
)
def test_columns_are_found_by_name(tmp_path, header, row):
    grids = {"Q": PAIR.question.replace(".", "0"), "A": PAIR.answer}
    unused = Unused()
    path = csv_of(tmp_path, header, [grids.get(cell, cell) for cell in row])
    assert read(path, unused=unused) == [PAIR]
    assert all(str(name) in str(unused.notes()) for name in header if name in ("id", "rating"))


def test_columns_are_named_and_rows_may_be_json(tmp_path):
    path = csv_of(tmp_path, ("easy", "hard", "done"), ["1" * 81, PAIR.question, PAIR.answer])
    assert read(path, ("hard", "done")) == [PAIR]
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps({"Puzzle": PAIR.question, "solution": PAIR.answer}))
    assert read(lines) == [PAIR]
    maze = PUZZLES["maze10"].make(1, 0)[0]
    lines.write_text(json.dumps({"question": maze.question, "answer": maze.answer}))
    (found,) = read_puzzles([lines], 100, PUZZLES["maze10"].symbols)
    assert (found.question, found.answer) == (maze.question, maze.answer)


def test_malformed_rows_are_named(tmp_path):
    path, head = tmp_path / "a.csv", "source,question,answer,rating\n"
    wrong = PAIR.answer[1] + PAIR.answer[0] + PAIR.answer[2:]
    at = PAIR.question.index(".")
    changed = PAIR.question[:at] + str(int(PAIR.answer[at]) % 9 + 1) + PAIR.question[at + 1 :]
    for text, words in (
        (
            f"{head}x,{PAIR.question[:-1]},{PAIR.answer},3",
            ":2: a puzzle and its answer have 81 cel",
        ),
        (f"{head}x,{'x' * 81},{PAIR.answer},3", ":2: cells must be digits"),
        (f"{head}x,{'.' * 81},{wrong},3", ":2: the answer is not a solution"),
        (f"{head}x,{changed},{PAIR.answer},3", ":2: the answer changes a given cell"),
        (f"{head}x", ":2: expected 4 cells as in the header, got 1"),
        (f'{head}"x"y', ":2: not valid CSV"),
        ("id,grid\n1,2", ":1: no columns of a puzzle and its answer among: id, grid; name the"),
        (f"{PAIR.answer},{PAIR.answer},{PAIR.answer}", ":1: 3 cells of 81 symbols; name the"),
        ("question,Question,answer,answer\n", ":1: two columns are named 'answer'"),
        (head, "contains no puzzle"),
        (",", "contains no puzzle"),
    ):
        path.write_text(text + "\n")
        with pytest.raises(UserError, match=words) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_sudokus_with_several_solutions_are_told_and_limited(tmp_path):
    path = csv_of(tmp_path, ("puzzle", "solution"), *[["." * 81, PAIR.answer]] * 30)
    with pytest.raises(UserError, match=r"csv:2: 100.0% .* several .*; leave such puzzles out$"):
        read(path)
    good = make_sudoku(2, 10, 0)
    rows = [[pair.question, pair.answer] for pair in good[:9]] + [["." * 16, good[9].answer]]
    path = csv_of(tmp_path, ("puzzle", "solution"), *rows)
    unused = Unused()
    assert len(read_puzzles([path], 16, SUDOKU4, unused=unused)) == 10
    assert "10.0% of the puzzles have several solutions" in unused.notes()[-1]
    assert "csv:11" in unused.notes()[-1]
    # Enough given cells and digits, but 1 and 3 may change places: found by the solver.
    path = csv_of(tmp_path, ("puzzle", "solution"), [".2.4.4.221434321", "1234341221434321"])
    with pytest.raises(UserError, match=r"100.0% of the puzzles have several solutions"):
        read_puzzles([path], 16, SUDOKU4)


def test_the_real_puzzles():
    path = DATA / "sudoku" / "train.csv"
    if not path.exists():
        pytest.skip("no such file here")
    pairs = read(path)
    assert len(pairs) == len({pair.question for pair in pairs}) == 2700
    assert len({pair.answer for pair in pairs}) == 1500
    train, unseen = split_sudoku(pairs, 0.1, 0, 3)
    assert not {pair.answer for pair in train} & {pair.answer for pair in unseen}
