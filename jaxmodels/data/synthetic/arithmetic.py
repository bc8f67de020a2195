"""Arithmetic tasks: a calculation of which every step is asked, and a sum of two marked numbers."""

import dataclasses
from typing import Any

import numpy as np

from jaxmodels.data.synthetic.rows import batch_generator, make_batch, require_whole

PLUS, MINUS, TIMES = range(3)


@dataclasses.dataclass(frozen=True)
class ModularArithmetic:
    """Calculations modulo m, from left to right (after Deletang et al. 2022, arXiv 2207.02098).

        3 + 4 * 2 - 1 ...     labels, m = 5:  2 at the 4, 4 at the 2, 3 at the 1

    Every number but the first is a label: the result so far. Multiplication makes the state
    transitions of these rows other than permutations: a product with 0 forgets.

    Tokens: the numbers 0..m-1, then + - *.

    Attributes:
      seq_len: T.
      modulus: m.
    """

    seq_len: int = 33
    modulus: int = 5

    def __post_init__(self):
        require_whole(self, seq_len=3, modulus=2)

    @property
    def vocab_size(self) -> int:
        """Number of tokens: numbers and operators."""
        return self.modulus + 3

    @property
    def chance(self) -> float:
        """Accuracy of guessing the likeliest result at each place, averaged."""
        m = self.modulus
        likely, best = np.full(m, 1 / m), []
        table = _results(m)  # (operator, before, number)
        for _ in range((self.seq_len - 1) // 2):
            arrived = np.zeros(m)
            np.add.at(arrived, table, np.broadcast_to(likely[:, None] / (3 * m), table.shape))
            likely = arrived
            best.append(likely.max())
        return float(np.mean(best))

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        inputs = rng.integers(0, self.modulus, (batch_size, self.seq_len))
        operators = rng.integers(0, 3, (batch_size, self.seq_len // 2))
        inputs[:, 1::2] = self.modulus + operators
        targets, scored = np.zeros_like(inputs), np.zeros(inputs.shape, bool)
        table, result = _results(self.modulus), inputs[:, 0]
        for place in range(2, self.seq_len, 2):
            result = table[operators[:, place // 2 - 1], result, inputs[:, place]]
            targets[:, place], scored[:, place] = result, True
        return make_batch(inputs, targets, scored)


def _results(modulus: int) -> np.ndarray:
    """Return the result of each operator, of what was before, and a number: (3, m, m)."""
    before, number = np.ogrid[:modulus, :modulus]
    return np.stack([before + number, before - number, before * number]) % modulus


@dataclasses.dataclass(frozen=True)
class Adding:
    """The adding problem (Hochreiter and Schmidhuber 1997), over whole numbers.

        3 9* 1 4 6 2* 5 ?     label 11 at the ?

    One number of each half is marked. The sum is a class, and `values` in a batch, float32
    (batch, time, 1), is it over the largest sum, for models that predict numbers; the error of
    guessing its mean is 1/24 for many levels (`variance`).

    Tokens: the numbers 0..levels-1, the marked numbers, then ?.

    Attributes:
      seq_len: T, including the question.
      levels: number of distinct numbers.
    """

    seq_len: int = 32
    levels: int = 10

    def __post_init__(self):
        require_whole(self, seq_len=3, levels=2)

    @property
    def vocab_size(self) -> int:
        """Number of tokens: numbers, marked numbers, question."""
        return 2 * self.levels + 1

    @property
    def chance(self) -> float:
        """Accuracy of guessing the likeliest sum."""
        return 1 / self.levels

    @property
    def variance(self) -> float:
        """Mean squared error of guessing the mean of `values`."""
        return 2 * (self.levels**2 - 1) / 12 / (2 * self.levels - 2) ** 2

    @property
    def labels(self) -> dict[str, int]:
        """Fields of a batch beside the targets, and their number of classes."""
        return {"values": 1}

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, Any]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        inputs = rng.integers(0, self.levels, (batch_size, self.seq_len))
        half, row = (self.seq_len - 1) // 2, np.arange(batch_size)
        marks = rng.integers(0, half, batch_size), rng.integers(half, self.seq_len - 1, batch_size)
        total = inputs[row, marks[0]] + inputs[row, marks[1]]
        for places in marks:
            inputs[row, places] += self.levels
        inputs[:, -1] = 2 * self.levels
        targets, scored = np.zeros_like(inputs), np.zeros(inputs.shape, bool)
        targets[:, -1], scored[:, -1] = total, True
        batch = make_batch(inputs, targets, scored)
        values = batch["targets"] / np.float32(2 * self.levels - 2)
        return batch | {"values": values.astype(np.float32)[..., None]}
