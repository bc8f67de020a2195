"""Mazes with a unique shortest path, in the format of HRM's Maze-Hard.

"#" wall, " " free, "S" start, "G" goal; in the answer, "o" marks the shortest path. The
`combination` of a maze is the length of its path in steps.
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

    Corridors are a random tree; then some walls are opened, which creates alternative paths.

    Args:
      size: 5 or more.
      count, seed: number of mazes, and random seed.
      shortest: minimum length of a path in steps; None means `size`.

    Raises:
      UserError: invalid sizes, or too few such mazes found.
    """
    if size < 5 or count < 1:
        raise UserError(f"a maze needs size >= 5 and examples >= 1, got {size} and {count}")
    minimum = size if shortest is None else shortest
    if minimum < 1:
        raise UserError(f"shortest: must be 1 or more, got {minimum}")
    mazes: dict[str, Pair] = {}
    for number in range(100 * count):
        pair = _maze(size, random_words(seed, number, 8 * size * size), minimum)
        if pair is not None:
            mazes.setdefault(pair.question, pair)
        if len(mazes) == count:
            return list(mazes.values())
    raise UserError(f"examples: only {len(mazes)} mazes of {minimum} steps, requested {count}")


def _maze(size: int, words: np.ndarray, minimum: int) -> Pair | None:
    draw = iter(words.tolist()).__next__
    free = np.zeros((size, size), bool)
    start = (2 * (draw() % ((size + 1) // 2)), 2 * (draw() % ((size + 1) // 2)))
    free[start] = True
    stack = [start]
    while stack:  # a tree over the cells with even coordinates
        r, c = stack[-1]
        ways = [to for to in _neighbours(stack[-1], free.shape, step=2) if not free[to]]
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
    steps, paths = distances(free, start)
    far = np.argwhere(steps >= minimum)
    if not len(far):
        return None
    goal = tuple(int(x) for x in far[draw() % len(far)])
    if paths[goal] != 1:
        return None
    path = [goal]
    while path[-1] != start:
        back = steps[path[-1]] - 1
        path.append(next(to for to in _neighbours(path[-1], free.shape) if steps[to] == back))
    grid = np.where(free, " ", "#")
    grid[start], grid[goal] = "S", "G"
    question = "".join(grid.ravel())
    for cell in path[1:-1]:
        grid[cell] = "o"
    return Pair(question, "".join(grid.ravel()), f"maze{size}", (str(len(path) - 1),))


def distances(free: np.ndarray, start: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps from start to each cell, -1 = unreachable; number of shortest paths to it)."""
    steps = np.full(free.shape, -1)
    paths = np.zeros(free.shape, object)
    steps[start], paths[start] = 0, 1
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        for to in _neighbours(cell, free.shape):
            if not free[to]:
                continue
            if steps[to] < 0:
                steps[to] = steps[cell] + 1
                queue.append(to)
            if steps[to] == steps[cell] + 1:
                paths[to] += paths[cell]
    return steps, paths


def _neighbours(cell: tuple[int, int], shape: tuple[int, int], step: int = 1):
    cells = [(cell[0] + step * dr, cell[1] + step * dc) for dr, dc in STEPS]
    return [(r, c) for r, c in cells if 0 <= r < shape[0] and 0 <= c < shape[1]]


def augment_maze(words: np.ndarray, question: np.ndarray, answer: np.ndarray):
    """Apply a random symmetry of the square to ids (size^2,)."""
    size = round(len(question) ** 0.5)
    symmetry = int(words[0] % np.uint64(8))

    def transform(ids):
        grid = np.rot90(ids.reshape(size, size), symmetry % 4)
        return (grid.T if symmetry >= 4 else grid).ravel()

    return transform(question), transform(answer)


def split_mazes(pairs: Sequence[Pair], held_out: float, seed: int):
    """Return (train, unseen), split by maze up to the symmetries of the square."""
    keys = [_canonical(pair.question) for pair in pairs]
    return split_by_key(pairs, keys, held_out, seed, use=78)


def _canonical(question: str) -> str:
    symbols = np.array(list(question))
    images = [augment_maze(np.array([i], np.uint64), symbols, symbols)[0] for i in range(8)]
    return min("".join(image) for image in images)
