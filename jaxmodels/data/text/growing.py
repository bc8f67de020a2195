"""Tracks whose segments grow in length while each goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxmodels.data.text.batching import Ring, Tracks


class GrowingTracks(Tracks):
    """`make_stream(mode="tracks", lengths=...)`: element = step, of the length that holds then.

    Tracks are whole multiples of the longest segment. A segment may begin in one epoch and end in
    the next: the first token of a track has its reset wherever in a segment it stands. With one
    length the batches are those of `Tracks`.
    """

    def __init__(
        self,
        ring: Ring,
        rows: np.ndarray,
        batch_size: int,
        lengths: Sequence[tuple[int, int]],
        seed: int,
        carry_state: bool = True,
    ):
        """lengths: (first step, seq_len) ascending, the first from step 0."""
        longest = max(length for _, length in lengths)
        super().__init__(ring, rows, batch_size, longest, seed, carry_state)
        self.track_length = self.steps_per_epoch * longest
        self.starts = [start for start, _ in lengths]
        self.lengths = [length for _, length in lengths]
        spans = np.diff(self.starts) * self.lengths[:-1]
        self.read_before = [0, *np.cumsum(spans, dtype=np.int64).tolist()]

    def _where(self, step: int) -> tuple[int, int]:
        """(tokens that a track has read before this step, tokens that it reads now)."""
        phase = int(np.searchsorted(self.starts, step, side="right")) - 1
        length = self.lengths[phase]
        return self.read_before[phase] + (step - self.starts[phase]) * length, length

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        before, length = self._where(int(step))
        column = np.arange(length)
        epochs, read = np.divmod(before + column, self.track_length)
        remembered = read if self.carry_state else np.minimum(read, column)
        parts = [
            self.cut(int(epoch), read[epochs == epoch], remembered[epochs == epoch])
            for epoch in np.unique(epochs)
        ]
        return self.ring.batch(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))
