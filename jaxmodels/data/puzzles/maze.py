"""Mazes with their shortest path, in the form of HRM's Maze-Hard (SYSTEMS 7.12).

"#" wall, " " free, "S" start, "G" goal; in the answer "o" marks the path between the two, which is
the only shortest one. A maze's `combination` is the number of steps of its path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from jaxmodels.data.pairs.rows import Pair, split_by_key
from jaxmodels.data.random import random_words
from jaxmodels.errors import UserError

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
AUGMENT_WORDS = 1


def make_maze(size: int, count: int, seed: int, shortest: int | None = None) -> list[Pair]:
    """Make distinct mazes of size x size cells.

    Corridors are dug at random as a tree, then some walls are opened, so that there are ways round;
    start and goal lie far apart, and one shortest path joins them.

    Args:
      size: 5 or more.
      count, seed: how many, and what they follow from.
      shortest: a path has so many steps at least; None means `size`.

    Raises:
      UserError: sizes that cannot be.
    """
    if size < 5 or count < 1:
        raise UserError(f"a maze has 5 x 5 cells or more, got {size}; examples 1 or more, {count}")
    least = size if shortest is None else shortest
    if least < 1:
        raise UserError(f"shortest: a path has 1 step or more, got {least}")
    made: dict[str, Pair] = {}
    for number in range(100 * count):
        pair = _maze(size, random_words(seed, number, 8 * size * size), least)
        if pair is not None:
            made.setdefault(pair.question, pair)
        if len(made) == count:
            return list(made.values())
    raise UserError(f"examples: found only {len(made)} mazes of {least} steps, asked for {count}")


def _maze(size: int, words: np.ndarray, least: int) -> Pair | None:
    draw = iter(words.tolist()).__next__
    free = np.zeros((size, size), bool)
    start = (2 * (draw() % ((size + 1) // 2)), 2 * (draw() % ((size + 1) // 2)))
    free[start] = True
    stack = [start]
    while stack:  # a tree over the cells with even places
        r, c = stack[-1]
        ways = [
            (r + 2 * dr, c + 2 * dc)
            for dr, dc in STEPS
            if 0 <= r + 2 * dr < size and 0 <= c + 2 * dc < size
            if not free[r + 2 * dr, c + 2 * dc]
        ]
        if not ways:
            stack.pop()
            continue
        to = ways[draw() % len(ways)]
        free[(r + to[0]) // 2, (c + to[1]) // 2] = free[to] = True
        stack.append(to)
    for r in range(size):
        for c in range(size):
            if not free[r, c] and draw() % 8 == 0:
                free[r, c] = True
    distance, _ = distances(free, start)
    far = np.argwhere(distance >= least)
    if not len(far):
        return None
    goal = tuple(int(x) for x in far[draw() % len(far)])
    path = only_shortest_path(free, start, goal)
    if path is None:
        return None
    grid = np.where(free, " ", "#")
    grid[start], grid[goal] = "S", "G"
    question = "".join(grid.ravel())
    for cell in path[1:-1]:
        grid[cell] = "o"
    return Pair(question, "".join(grid.ravel()), f"maze{size}", (str(len(path) - 1),))


def distances(free: np.ndarray, start: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps from start to each cell, -1 if unreachable; number of shortest paths to it)."""
    steps = np.full(free.shape, -1)
    paths = np.zeros(free.shape, object)
    steps[start], paths[start] = 0, 1
    queue = deque([start])
    while queue:
        r, c = queue.popleft()
        for dr, dc in STEPS:
            to = (r + dr, c + dc)
            if not (0 <= to[0] < free.shape[0] and 0 <= to[1] < free.shape[1] and free[to]):
                continue
            if steps[to] < 0:
                steps[to] = steps[r, c] + 1
                queue.append(to)
            if steps[to] == steps[r, c] + 1:
                paths[to] += paths[r, c]
    return steps, paths


def only_shortest_path(free, start, goal) -> list[tuple[int, int]] | None:
    """Return the cells from start to goal, or None unless exactly one path is the shortest."""
    steps, paths = distances(free, start)
    if paths[goal] != 1:
        return None
    path = [goal]
    while path[-1] != start:
        r, c = path[-1]
        path.append(
            next(
                (r + dr, c + dc)
                for dr, dc in STEPS
                if 0 <= r + dr < free.shape[0] and 0 <= c + dc < free.shape[1]
                if steps[r + dr, c + dc] == steps[r, c] - 1
            )
        )
    return path[::-1]


def augment_maze(words: np.ndarray, question: np.ndarray, answer: np.ndarray):
    """Apply one of the square's eight symmetries, drawn from one word; ids (size^2,) each."""
    size = round(len(question) ** 0.5)
    which = int(words[0] % np.uint64(8))

    def turned(ids):
        grid = np.rot90(ids.reshape(size, size), which % 4)
        return (grid.T if which >= 4 else grid).ravel()

    return turned(question), turned(answer)


def split_mazes(pairs: Sequence[Pair], held_out: float, seed: int):
    """Return (train, unseen), split by maze up to the symmetries of the square."""
    keys = [_canonical(pair.question) for pair in pairs]
    return split_by_key(pairs, keys, held_out, seed, use=78)


def _canonical(question: str) -> str:
    symbols = np.array(list(question))
    images = [augment_maze(np.array([i], np.uint64), symbols, symbols)[0] for i in range(8)]
    return min("".join(image) for image in images)
