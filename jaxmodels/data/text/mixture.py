"""Batches mixed from several sources, with shares that change in phases of a run (SYSTEMS G-29).

Every row is a window of one source: which one, and from where, is drawn for (seed, step, row)
alone, so that any step can be made at once. Windows are drawn with replacement and begin anywhere;
the state starts afresh with each.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxmodels.data.loading import grain_dataset
from jaxmodels.data.random import random_words
from jaxmodels.data.text.batching import Labeller, Ring
from jaxmodels.data.text.documents import Document
from jaxmodels.errors import UserError

if TYPE_CHECKING:
    import grain

# The identity curriculum: mechanics, reflection, explicit identity, worldview (shares of the run).
IDENTITY_PHASES = (0.2, 0.6, 0.9, 1.0)


class Mixture:
    """Element = step: a batch dict as in `streams`."""

    def __init__(
        self,
        sources: Mapping[str, Sequence[Document]],
        weights: Mapping[str, Sequence[float]],
        ends: Sequence[int],
        *,
        rows: np.ndarray,
        batch_size: int,
        seq_len: int,
        seed: int,
        labels: Labeller | None = None,
    ):
        """weights: for each source one number a phase; ends: the step at which each phase ends."""
        self.shares = phase_shares(sources.keys(), weights, len(ends))
        documents = [[d for d in source if len(d)] for source in sources.values()]
        sizes = np.array([sum(len(d) for d in source) for source in documents], np.int64)
        for name, size in zip(sources, sizes, strict=True):
            if size < 2:
                raise UserError(f"data.mixture.{name}: no text in its training split")
        self.ring = Ring([d for source in documents for d in source], labels)
        self.sizes, self.first = sizes, np.cumsum(sizes) - sizes
        self.ends, self.rows, self.batch_size = np.asarray(ends), rows, batch_size
        self.seq_len, self.seed = seq_len, seed

    def __len__(self) -> int:
        return sys.maxsize

    def phase(self, step: int) -> int:
        """Return the index of the phase that a step is in; after the last end, the last."""
        return min(int(np.searchsorted(self.ends, step, side="right")), len(self.ends) - 1)

    def sources(self, step: int) -> np.ndarray:
        """Return (batch_size,): the index of the source of each row."""
        uniform = (self._words(step)[0] >> np.uint64(11)) * 2.0**-53
        below = np.cumsum(self.shares[self.phase(step)])
        return np.minimum(np.searchsorted(below, uniform, side="right"), self._last(step))

    def _last(self, step: int) -> int:
        """The last source that has a share: rounding must not draw one that has none."""
        return int(np.flatnonzero(self.shares[self.phase(step)])[-1])

    def _words(self, step: int) -> np.ndarray:
        return random_words(self.seed, step, 2 * self.batch_size).reshape(2, -1)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        step = int(step)
        source = self.sources(step)[self.rows]
        size, first = self.sizes[source], self.first[source]
        begin = (self._words(step)[1][self.rows] % size.astype(np.uint64)).astype(np.int64)
        column = np.arange(self.seq_len)
        positions = first[:, None] + (begin[:, None] + column[None]) % size[:, None]
        document = np.searchsorted(self.ring.ends, positions, side="right")
        offset = positions - self.ring.starts[document]
        return self.ring.batch(
            positions,
            reset=(offset == 0) | (column == 0)[None],
            has_target=positions + 1 < self.ring.ends[document],
            since=positions - np.minimum(offset, column[None]),
        )


def phase_shares(names, weights: Mapping[str, Sequence[float]], phases: int) -> np.ndarray:
    """Return (phases, sources) shares that sum to 1 in each phase.

    Raises:
      UserError: weights that are missing, negative, of another number, or all zero in a phase.
    """
    for name in names:
        given = weights[name]
        if len(given) != phases or not all(w >= 0 and np.isfinite(w) for w in given):
            raise UserError(
                f"data.mixture.{name}: needs {phases} weights >= 0, one a phase, got {given!r}"
            )
    table = np.array([list(weights[name]) for name in names], float).T
    if (table.sum(1) <= 0).any():
        raise UserError("data.mixture: in every phase some source needs a weight above 0")
    return table / table.sum(1, keepdims=True)


def mixture_stream(source: Mixture, prefetch: int = 2) -> grain.IterDataset:
    """Return endless batches; `iter()` has get_state()/set_state() with next_index == step."""
    return grain_dataset(source, prefetch)
