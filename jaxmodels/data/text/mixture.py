"""Batches mixed from several sources, with proportions that change in phases of a run.

Every row is a window of one source. Source and position depend on (seed, step, row) alone, so that
any step can be made directly. Windows are drawn with replacement and begin anywhere; the recurrent
state is reset at each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxmodels.data.labels.relations import RelationLabeller
from jaxmodels.data.random import random_words
from jaxmodels.data.text.batching import Ring
from jaxmodels.data.text.documents import Document
from jaxmodels.errors import UserError

# Ends of the phases of the identity curriculum as fractions of a run: mechanics, reflection,
# explicit identity, worldview.
IDENTITY_PHASES = (0.2, 0.6, 0.9, 1.0)


class Mixture:
    """A source of batches as in `streams`, for `grain_dataset`."""

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
        labels: RelationLabeller | None = None,
    ):
        """Take weights, one per source and phase, and the step at which each phase ends."""
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

    def phase(self, step: int) -> int:
        """Return the index of the phase of a step; after the last end, the last."""
        return min(int(np.searchsorted(self.ends, step, side="right")), len(self.ends) - 1)

    def sources(self, step: int) -> np.ndarray:
        """Return the index of the source of each row, (batch_size,)."""
        uniform = (self._words(step)[0] >> np.uint64(11)) * 2.0**-53
        shares = self.shares[self.phase(step)]
        last = int(np.flatnonzero(shares)[-1])  # rounding must not draw a source of share 0
        return np.minimum(np.searchsorted(np.cumsum(shares), uniform, side="right"), last)

    def _words(self, step: int) -> np.ndarray:
        return random_words(self.seed, step, 2 * self.batch_size).reshape(2, -1)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """Return the batch of a step."""
        source = self.sources(step)[self.rows]
        size, first = self.sizes[source], self.first[source]
        begin = (self._words(step)[1][self.rows] % size.astype(np.uint64)).astype(np.int64)
        column = np.arange(self.seq_len)
        positions = first[:, None] + (begin[:, None] + column[None]) % size[:, None]
        return self.ring.rows(positions, column)


def phase_shares(names, weights: Mapping[str, Sequence[float]], phases: int) -> np.ndarray:
    """Return the share of each source, (phases, sources), with sum 1 in each phase.

    Raises:
      UserError: weights are missing, negative, too few or many, or all zero in a phase.
    """
    for name in names:
        values = weights[name]
        if len(values) != phases or not all(w >= 0 and np.isfinite(w) for w in values):
            raise UserError(
                f"data.mixture.{name}: needs {phases} weights >= 0, one per phase, got {values!r}"
            )
    table = np.array([list(weights[name]) for name in names], float).T
    if (table.sum(1) <= 0).any():
        raise UserError("data.mixture: every phase needs a source with a weight above 0")
    return table / table.sum(1, keepdims=True)
