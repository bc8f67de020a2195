"""Tasks of MAD (Poli et al. 2024, arXiv 2403.17844) beside selective copying, which `recall` has.

The source trains on every next token of a row and scores some; here the scored ones alone are
targets. Fuzzy and plain recall ask for every pair again, as in the source's multi-query form.
"""

import dataclasses

import numpy as np

from jaxmodels.data.synthetic.rows import (
    batch_generator,
    make_batch,
    require_room,
    require_whole,
)
from jaxmodels.errors import UserError


@dataclasses.dataclass(frozen=True)
class InContextRecall:
    """Recall of the values of keys that come again, as they did before.

        k1 v1 k2 v2 n n k1 v1 ...      label v1 at the second k1

    A row repeats its own `pairs` in random order. A key is one to `key_tokens` distinct tokens, a
    value one to `value_tokens`; a value's tokens are labels at the tokens before them. With
    probability `noise` a pair is overwritten by noise tokens.

    Tokens: `symbols` of keys, `symbols` of values, then `noise_symbols` if there is noise.

    Attributes:
      seq_len: T, in which a pair of the longest key and value is read twice.
      symbols: tokens of keys, and as many of values.
      pairs: keys of a row; equal draws are one key.
      key_tokens, value_tokens: most tokens of a key, and of a value.
      noise: fraction of the pairs that are noise.
      noise_symbols: distinct noise tokens.
    """

    seq_len: int = 64
    symbols: int = 8
    pairs: int = 8
    key_tokens: int = 1
    value_tokens: int = 1
    noise: float = 0.0
    noise_symbols: int = 16

    def __post_init__(self):
        require_whole(self, seq_len=1, symbols=2, pairs=1, key_tokens=1, value_tokens=1)
        require_whole(self, noise_symbols=1)
        longest = max(self.key_tokens, self.value_tokens)
        name = type(self).__name__
        if longest > self.symbols:
            raise UserError(
                f"{name}: a key or value of {longest} distinct tokens needs as many symbols, got "
                f"{self.symbols}"
            )
        if not 0.0 <= self.noise < 1.0:
            raise UserError(f"{name}: noise must be in [0, 1), got {self.noise}")
        fields = f"key_tokens={self.key_tokens}, value_tokens={self.value_tokens}"
        require_room(self, 2 * (self.key_tokens + self.value_tokens), fields)

    @property
    def vocab_size(self) -> int:
        """Number of tokens: keys, values, noise."""
        return 2 * self.symbols + (self.noise_symbols if self.noise else 0)

    @property
    def chance(self) -> float:
        """Accuracy of guessing one of the tokens of values."""
        return 1 / self.symbols

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        row = np.arange(batch_size)[:, None]
        keys, key_sizes = self._motifs(rng, batch_size, self.key_tokens)
        values, value_sizes = self._motifs(rng, batch_size, self.value_tokens)
        values += self.symbols
        used = np.arange(self.key_tokens) < key_sizes[..., None]
        same = (np.where(used, keys, -1)[:, :, None] == np.where(used, keys, -1)[:, None]).all(-1)
        # A unit has two tokens or more, and the last token of a row has a next one.
        order = rng.integers(0, self.pairs, (batch_size, self.seq_len // 2 + 1))
        order = np.argmax(same, -1)[row, order]  # the first of equal keys stands for all
        noisy = rng.random(order.shape) < self.noise
        before = np.zeros((batch_size, self.pairs), bool)
        known = np.zeros(order.shape, bool)
        for unit in range(order.shape[1]):
            known[:, unit] = before[row[:, 0], order[:, unit]] & ~noisy[:, unit]
            before[row[:, 0], order[:, unit]] |= ~noisy[:, unit]

        # Every unit is a key and a value, padded; what is used of them is moved together.
        tokens = np.concatenate([keys, values], -1)[row, order]
        tokens = np.where(noisy[..., None], self._noise(rng, tokens.shape), tokens)
        places = np.arange(tokens.shape[-1])
        from_value = places - self.key_tokens
        real = (places < key_sizes[..., None]) | (
            (from_value >= 0) & (from_value < value_sizes[..., None])
        )
        real = real[row, order].reshape(batch_size, -1)
        asked = known[..., None] & (from_value >= 0)
        asked = asked.reshape(batch_size, -1) & real
        moved = np.argsort(~real, 1, kind="stable")[:, : self.seq_len + 1]
        inputs = np.take_along_axis(tokens.reshape(batch_size, -1), moved, 1)
        scored = np.take_along_axis(asked, moved, 1)
        return make_batch(inputs[:, :-1], inputs[:, 1:], scored[:, 1:])

    def _motifs(self, rng, rows: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, pairs, longest) tokens, distinct within a motif, and sizes."""
        tokens = np.argsort(rng.random((rows, self.pairs, self.symbols)), -1)[..., :longest]
        return tokens, rng.integers(1, longest + 1, (rows, self.pairs))

    def _noise(self, rng, shape) -> np.ndarray:
        return 2 * self.symbols + rng.integers(0, self.noise_symbols, shape)


@dataclasses.dataclass(frozen=True)
class NoisyRecall(InContextRecall):
    """Recall among noise: a fifth of the pairs is noise, as in the source."""

    noise: float = 0.2


@dataclasses.dataclass(frozen=True)
class FuzzyRecall(InContextRecall):
    """Recall of keys and values of one to three tokens, as in the source."""

    key_tokens: int = 3
    value_tokens: int = 3


@dataclasses.dataclass(frozen=True)
class Memorization:
    """Facts to be kept in the weights: the value of a key is the same in every row.

        k . k . k .     label: the value of the key before, at each .

    Tokens: keys, then values, then the dot. No row tells a value, so that only training does.

    Attributes:
      seq_len: T.
      keys: number of keys, and of values: facts to learn.
      table_seed: seed of the facts.
    """

    seq_len: int = 32
    keys: int = 64
    table_seed: int = 0

    def __post_init__(self):
        require_whole(self, seq_len=2, keys=2, table_seed=0)

    @property
    def vocab_size(self) -> int:
        """Number of tokens: keys, values, dot."""
        return 2 * self.keys + 1

    @property
    def chance(self) -> float:
        """Accuracy of guessing one of the values."""
        return 1 / self.keys

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        facts = self.keys + np.random.default_rng(self.table_seed).permutation(self.keys)
        inputs = np.full((batch_size, self.seq_len), 2 * self.keys)
        keys = rng.integers(0, self.keys, (batch_size, (self.seq_len + 1) // 2))
        inputs[:, ::2] = keys
        targets, scored = np.zeros_like(inputs), np.zeros(inputs.shape, bool)
        targets[:, 1::2], scored[:, 1::2] = facts[keys][:, : self.seq_len // 2], True
        return make_batch(inputs, targets, scored)


@dataclasses.dataclass(frozen=True)
class Compression:
    """A random row of tokens, kept whole: what was at this place?

        x1 x2 x3 ! 2 3 1     labels x2 x3 x1 at the places 2 3 1

    A recurrent model has nothing but its state at ! to answer from. The source asks an MLP, which
    reads the output at ! and a place; that would be no language model. Attention may look back.

    Tokens: `symbols`, the mark !, then the places.

    Attributes:
      seq_len: T = 2 n + 1 for n tokens.
      symbols: distinct tokens.
    """

    seq_len: int = 33
    symbols: int = 8

    def __post_init__(self):
        require_whole(self, seq_len=3, symbols=2)
        if self.seq_len % 2 == 0:
            raise UserError(
                f"Compression: seq_len must be odd (tokens, a mark, as many places), got "
                f"{self.seq_len}"
            )

    @property
    def vocab_size(self) -> int:
        """Number of tokens: symbols, mark, places."""
        return self.symbols + 1 + self.seq_len // 2

    @property
    def chance(self) -> float:
        """Accuracy of guessing one of the symbols."""
        return 1 / self.symbols

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        length = self.seq_len // 2
        tokens = rng.integers(0, self.symbols, (batch_size, length))
        places = np.argsort(rng.random((batch_size, length)), 1)
        mark = np.full((batch_size, 1), self.symbols)
        inputs = np.concatenate([tokens, mark, self.symbols + 1 + places], 1)
        targets, scored = np.zeros_like(inputs), np.zeros(inputs.shape, bool)
        targets[:, length + 1 :] = np.take_along_axis(tokens, places, 1)
        scored[:, length + 1 :] = True
        return make_batch(inputs, targets, scored)
