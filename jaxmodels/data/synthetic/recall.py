"""Recall tasks: something is read and queried later.

The recall of a recurrent cell is bounded by the size of its state, so report the bytes of state
with every score.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxmodels.data.synthetic.rows import (
    batch_generator,
    make_batch,
    require_room,
    require_whole,
)
from jaxmodels.errors import UserError


@dataclasses.dataclass(frozen=True)
class MQAR:
    """Multi-query associative recall (Zoology, arXiv 2312.04927).

        k1 v1 k2 v2 ... kD vD . . k2 . k1 . . . k5 . ...

    Keys are 1..V/2-1, values V/2..V-1, each at most once per row; 0 is the filler. Every key is
    queried once, 2 i tokens after the first free position with probability proportional to i^(a-1).
    The label at a query is its value.

    Accuracy 2/V without reading (`chance`), 1/D when knowing the values but not their keys.

    Attributes:
      seq_len: T, at least 4 D.
      vocab_size: V, even.
      pairs: D.
      power: a; small values query soon after the pairs.
    """

    seq_len: int = 64
    vocab_size: int = 64
    pairs: int = 8
    power: float = 0.01

    def __post_init__(self):
        require_whole(self, seq_len=1, vocab_size=4, pairs=1)
        if self.vocab_size % 2 or self.pairs > self.vocab_size // 2 - 1:
            raise UserError(
                f"MQAR: vocab_size must be even and hold {self.pairs} keys below its half, got "
                f"{self.vocab_size}; {2 * self.pairs + 2} is enough"
            )
        if not self.power > 0.0:
            raise UserError(f"MQAR: power must be positive, got {self.power}")
        require_room(self, 4 * self.pairs, f"pairs={self.pairs}")

    @property
    def chance(self) -> float:
        """Accuracy of guessing one of the values."""
        return 2 / self.vocab_size

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        half, context = self.vocab_size // 2, 2 * self.pairs
        row = np.arange(batch_size)[:, None]
        keys = 1 + _choose(rng, batch_size, np.zeros(half - 1), self.pairs)
        values = half + _choose(rng, batch_size, np.zeros(half), self.pairs)
        places = np.arange(1, (self.seq_len - context) // 2 + 1)
        weight = (self.power - 1.0) * np.log(places)
        queries = context + 2 * _choose(rng, batch_size, weight, self.pairs)
        inputs = np.zeros((batch_size, self.seq_len), np.int64)
        inputs[:, 0:context:2], inputs[:, 1:context:2] = keys, values
        inputs[row, queries] = keys
        targets, scored = np.zeros_like(inputs), np.zeros(inputs.shape, bool)
        targets[row, queries], scored[row, queries] = values, True
        return make_batch(inputs, targets, scored)


@dataclasses.dataclass(frozen=True)
class SelectiveCopying:
    """Selective copying (Mamba, arXiv 2312.00752): copy the values among noise, in order.

        . 4 . . 7 . 2 . . ! ! !     labels 4 7 2 at the three !

    0 is the noise, 1 the query !; the others are values, drawn with replacement.

    Attributes:
      seq_len: T, including queries.
      values: number of distinct values.
      copies: number of values to copy, and of queries at the end.
    """

    seq_len: int = 64
    values: int = 8
    copies: int = 8

    def __post_init__(self):
        require_whole(self, seq_len=1, values=2, copies=1)
        require_room(self, 2 * self.copies, f"copies={self.copies}")

    @property
    def vocab_size(self) -> int:
        """Number of tokens: noise, query, values."""
        return 2 + self.values

    @property
    def chance(self) -> float:
        """Accuracy of guessing one of the values."""
        return 1 / self.values

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        body = self.seq_len - self.copies
        places = np.sort(_choose(rng, batch_size, np.zeros(body), self.copies), 1)
        values = rng.integers(2, self.vocab_size, (batch_size, self.copies))
        inputs = np.zeros((batch_size, self.seq_len), np.int64)
        inputs[np.arange(batch_size)[:, None], places] = values
        inputs[:, body:] = 1
        return _answered_at_the_end(inputs, values)


@dataclasses.dataclass(frozen=True)
class InductionHeads:
    """Induction heads (Mamba, arXiv 2312.00752): recall the token after the special token.

        3 9 1 * 6 2 5 ... 8 *       label 6 at the last token

    0 is the special token *, 1..symbols are the others. One label per row.

    Attributes:
      seq_len: T.
      symbols: number of distinct symbols.
    """

    seq_len: int = 64
    symbols: int = 16

    def __post_init__(self):
        require_whole(self, seq_len=3, symbols=2)

    @property
    def vocab_size(self) -> int:
        """Number of tokens: the special one and the symbols."""
        return 1 + self.symbols

    @property
    def chance(self) -> float:
        """Accuracy of guessing one of the symbols."""
        return 1 / self.symbols

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        inputs = rng.integers(1, self.vocab_size, (batch_size, self.seq_len))
        row, place = np.arange(batch_size), rng.integers(0, self.seq_len - 2, batch_size)
        inputs[row, place] = inputs[:, -1] = 0
        return _answered_at_the_end(inputs, inputs[row, place + 1][:, None])


@dataclasses.dataclass(frozen=True)
class Passkey:
    """A passkey: recall a number hidden in noise.

        w w # 3 1 4 1 5 w w w w w w w w ? ? ? ? ?     labels 3 1 4 1 5 at the five ?

    Tokens: the digits 0..9, # = 10, ? = 11, then noise words. The whole number is right by chance
    with probability 10^-digits.

    Attributes:
      seq_len: T, including queries.
      digits: number of digits.
      words: number of distinct noise words.
      distance: noise tokens between number and queries; None: uniformly random.
    """

    seq_len: int = 128
    digits: int = 5
    words: int = 16
    distance: int | None = None
    chance: ClassVar[float] = 0.1

    def __post_init__(self):
        require_whole(self, seq_len=1, digits=1, words=1)
        if self.distance is not None:
            require_whole(self, distance=0)
        away = self.distance or 0
        require_room(self, 1 + 2 * self.digits + away, f"digits={self.digits}, distance={away}")

    @property
    def vocab_size(self) -> int:
        """Number of tokens: digits, two marks, words."""
        return 12 + self.words

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        inputs = rng.integers(12, self.vocab_size, (batch_size, self.seq_len))
        number = rng.integers(0, 10, (batch_size, self.digits))
        farthest = self.seq_len - 2 * self.digits - 1
        distance = rng.integers(0, farthest + 1, (batch_size, 1))
        if self.distance is not None:
            distance[:] = self.distance
        mark = farthest - distance
        row = np.arange(batch_size)[:, None]
        inputs[row, mark] = 10
        inputs[row, mark + 1 + np.arange(self.digits)] = number
        inputs[:, -self.digits :] = 11
        return _answered_at_the_end(inputs, number)


def _choose(rng, rows: int, log_weight: np.ndarray, count: int) -> np.ndarray:
    """Draw `count` distinct indices per row, (rows, count), by the Gumbel top-k trick.

    log_weight: (n,) unnormalized log-probabilities of draws without replacement.
    """
    noisy = log_weight + rng.gumbel(size=(rows, len(log_weight)))
    return np.argsort(-noisy, 1)[:, :count]


def _answered_at_the_end(inputs: np.ndarray, answers: np.ndarray) -> dict[str, np.ndarray]:
    """Return the batch whose last tokens are queries with these answers (batch, queries)."""
    targets, scored = np.zeros_like(inputs), np.zeros(inputs.shape, bool)
    targets[:, -answers.shape[1] :], scored[:, -answers.shape[1] :] = answers, True
    return make_batch(inputs, targets, scored)
