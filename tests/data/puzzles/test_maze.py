"""Mazes: one shortest path, marked; eight symmetries."""

import numpy as np
import pytest

from jaxmodels.data.puzzles.maze import augment_maze, distances, make_maze, split_mazes
from jaxmodels.errors import UserError


def as_grid(text):
    size = round(len(text) ** 0.5)
    return np.array(list(text)).reshape(size, size)


def shortest_paths(grid):
    """Return (steps, number of shortest paths), by powers of the adjacency matrix."""
    free = np.argwhere(grid != "#")
    gap = np.abs(free[:, None] - free[None]).sum(-1)
    ways = (gap == 1).astype(object)
    start, goal = (int(np.flatnonzero(grid[tuple(free.T)] == mark)[0]) for mark in "SG")
    reached = np.eye(len(free), dtype=object)[start]
    for steps in range(1, len(free)):
        reached = reached @ ways
        if reached[goal]:
            return steps, reached[goal]
    return None


def test_the_marked_path_is_the_unique_shortest_path():
    for pair in make_maze(9, 12, seed=0):
        question, answer = as_grid(pair.question), as_grid(pair.answer)
        assert shortest_paths(question) == (int(pair.combination[0]), 1)
        path = np.argwhere(np.isin(answer, ["S", "G", "o"]))
        assert len(path) == int(pair.combination[0]) + 1 >= 10
        near = np.abs(path[:, None] - path[None]).sum(-1) == 1
        assert sorted(near.sum(1)) == [1, 1] + [2] * (len(path) - 2)  # a line, no more
        changed = question != answer
        assert (question[changed] == " ").all() and (answer[changed] == "o").all()


def test_mazes_have_alternative_paths():
    counts = [distances(as_grid(p.question) != "#", (0, 0))[1] for p in make_maze(9, 20, seed=1)]
    assert any((count > 1).any() for count in counts)


def test_mazes_are_a_function_of_the_seed():
    assert make_maze(7, 3, 0) == make_maze(7, 5, 0)[:3] != make_maze(7, 3, 1)
    with pytest.raises(UserError, match="needs size >= 5"):
        make_maze(4, 1, 0)
    # Without a step S and G would be one cell.
    with pytest.raises(UserError, match="must be 1 or more, got 0"):
        make_maze(5, 1, 0, shortest=0)
    with pytest.raises(UserError, match="only 0 mazes of 40 steps"):
        make_maze(5, 1, 0, shortest=40)


def test_symmetries_transform_question_and_answer_alike():
    pair = make_maze(7, 1, 0)[0]
    ids = np.arange(49)
    images = [augment_maze(np.array([i], np.uint64), ids, ids)[0] for i in range(8)]
    assert len({tuple(image) for image in images}) == 8
    np.testing.assert_array_equal(images[0], ids)
    symbols = np.array(list(pair.question)), np.array(list(pair.answer))
    for i in range(8):
        question, answer = augment_maze(np.array([i], np.uint64), *symbols)
        assert shortest_paths(as_grid("".join(question)))[1] == 1
        assert (question[answer != question] == " ").all()


def test_unseen_mazes_are_new_up_to_symmetry():
    pairs = make_maze(5, 60, 0)
    train, unseen = split_mazes(pairs, 0.3, 0)
    assert len(train) + len(unseen) == 60 and unseen
    symbols = [np.array(list(pair.question)) for pair in unseen]
    images = {
        "".join(augment_maze(np.array([i], np.uint64), s, s)[0]) for s in symbols for i in range(8)
    }
    assert not images & {pair.question for pair in train}
