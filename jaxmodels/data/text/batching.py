"""Sources of batches, one class per mode: element = step, a function of the step alone."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import numpy as np

from jaxmodels.data.labels.relations import RelationLabeller
from jaxmodels.data.random import epoch_items, random_order, random_words
from jaxmodels.data.text.documents import Document
from jaxmodels.data.text.packing import pack
from jaxmodels.errors import UserError


class Ring:
    """All documents end to end, from which batches are cut."""

    def __init__(self, documents: Sequence[Document], labeller: RelationLabeller | None = None):
        documents = [document for document in documents if len(document)]
        if not documents:
            raise UserError("no text: this split of the corpus is empty; give more or longer files")
        self.tokens = np.concatenate([document.tokens for document in documents])
        self.lengths = np.array([len(document) for document in documents], np.int64)
        self.ends = np.cumsum(self.lengths)
        self.starts = self.ends - self.lengths
        self.labels = _aligned_labels(documents)
        self.labeller = labeller
        self.index = None
        if labeller is not None:
            if self.tokens.dtype != np.uint8:
                raise UserError("data.labels: derived from bytes; set data.tokenizer='byte'")
            self.index = labeller.index(self.tokens, self.starts)

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, positions, reset, has_target, since) -> dict[str, np.ndarray]:
        """Return the batch of the tokens at `positions`; all arguments are (rows, seq_len).

        Args:
          positions: positions of the inputs; -1 = padding.
          reset: where the recurrent state starts from the initial one.
          has_target: where the next token is a target.
          since: first position that the state at this input has read without a reset.
        """
        real = positions >= 0
        at = np.where(real, positions, 0)
        has_target = has_target & real
        following = self.tokens[np.minimum(at + 1, len(self) - 1)]
        batch = {
            "inputs": np.where(real, self.tokens[at], 0).astype(np.int32),
            "targets": np.where(has_target, following, 0).astype(np.int32),
            "weights": has_target.astype(np.float32),
            "reset": reset,
        }
        for name, values in self.labels.items():
            batch[name] = _masked(values[at].astype(np.int32), real)
        if self.labeller is not None:
            derived = self.labeller.lookup(self.index, at.ravel(), np.where(real, since, 0).ravel())
            for name, values in derived.items():
                batch[name] = _masked(values.reshape(at.shape + values.shape[1:]), real)
        return batch

    def rows(self, positions, read) -> dict[str, np.ndarray]:
        """Return the batch of rows that start with a reset.

        Args:
          positions: (rows, seq_len), ascending within a row; -1 = padding.
          read: (seq_len,) tokens that a row has read before each.
        """
        real = positions >= 0
        document = np.searchsorted(self.ends, np.maximum(positions, 0), side="right")
        offset = positions - self.starts[document]
        return self.batch(
            positions,
            reset=((offset == 0) | (read == 0)[None]) & real,
            has_target=positions + 1 < self.ends[document],
            since=positions - np.minimum(offset, read[None]),
        )


class Tracks:
    """The source of `make_stream(mode="tracks")`: segments of one length, or of growing lengths.

    Tracks are multiples of the longest segment. A segment may span two epochs: the first token of
    a track has its reset anywhere in a segment.
    """

    def __init__(
        self,
        ring: Ring,
        rows: np.ndarray,
        batch_size: int,
        lengths: Sequence[tuple[int, int]],
        seed: int,
        carry_state: bool,
    ):
        """Take lengths as (first step, seq_len), ascending from step 0."""
        self.ring, self.rows, self.seed, self.carry_state = ring, rows, seed, carry_state
        self.first_steps, self.lengths = zip(*lengths, strict=True)
        longest = max(self.lengths)
        self.track_length = len(ring) // (batch_size * longest) * longest
        if self.track_length == 0:
            raise _too_short(
                len(ring), batch_size * longest, f"batch_size {batch_size} x seq_len {longest}"
            )
        spans = np.diff(self.first_steps) * self.lengths[:-1]
        self.read_before = [0, *np.cumsum(spans, dtype=np.int64).tolist()]
        self.shuffled = functools.lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return sys.maxsize

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the order of documents, their starts in that order, and the ring's entry point."""
        words = random_words(self.seed, epoch, len(self.ring.lengths) + 1)
        order = np.argsort(words[1:], kind="stable")
        starts = np.cumsum(self.ring.lengths[order]) - self.ring.lengths[order]
        return order, starts, int(words[0] % np.uint64(len(self.ring)))

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        phase = int(np.searchsorted(self.first_steps, step, side="right")) - 1
        column = np.arange(self.lengths[phase])
        before = self.read_before[phase] + (int(step) - self.first_steps[phase]) * len(column)
        epochs, read = np.divmod(before + column, self.track_length)
        remembered = read if self.carry_state else np.minimum(read, column)
        parts = [
            self._cut(int(epoch), read[epochs == epoch], remembered[epochs == epoch])
            for epoch in np.unique(epochs)
        ]
        return self.ring.batch(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))

    def _cut(self, epoch: int, read: np.ndarray, remembered: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the arguments of `Ring.batch` (rows, n) for some tokens of each track.

        Args:
          read: (n,) indices of the tokens within the track.
          remembered: (n,) tokens before each that the state has read without a reset.
        """
        order, starts, entry = self.shuffled(epoch)
        track = self.rows * self.track_length
        place = (entry + track[:, None] + read[None]) % len(self.ring)
        rank = np.searchsorted(starts, place, side="right") - 1
        offset = place - starts[rank]
        document = order[rank]
        positions = self.ring.starts[document] + offset
        return (
            positions,
            (offset == 0) | (read == 0)[None],  # reset
            positions + 1 < self.ring.ends[document],  # has a target
            positions - np.minimum(offset, remembered[None]),  # since
        )


class Windows:
    """The source of `make_stream(mode="windows")`; window = step * batch_size + row."""

    def __init__(self, ring: Ring, rows: np.ndarray, batch_size: int, seq_len: int, seed: int):
        self.ring, self.rows, self.batch_size = ring, rows, batch_size
        self.seq_len, self.seed = seq_len, seed
        self.windows_per_epoch = len(ring) // seq_len
        if self.windows_per_epoch == 0:
            raise _too_short(len(ring), seq_len, f"one window of seq_len {seq_len}")
        self.shuffled = functools.lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return sys.maxsize // self.batch_size

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Return the first position of each window of an epoch, shuffled."""
        words = random_words(self.seed, epoch, self.windows_per_epoch + 1)
        order = np.argsort(words[1:], kind="stable")
        return (words[0] % np.uint64(len(self.ring))).astype(np.int64) + order * self.seq_len

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        numbers = step * self.batch_size + self.rows
        begin = epoch_items(self.shuffled, self.windows_per_epoch, numbers)
        column = np.arange(self.seq_len)
        return self.ring.rows((begin[:, None] + column[None]) % len(self.ring), column)


class Packed:
    """The source of `make_stream(mode="packed")`; packed row = step * batch_size + row.

    Grain's packing works on iterators, so that row n requires all rows before it. Here documents
    are packed once and rows are shuffled, so that any step can be made directly.
    """

    def __init__(self, ring: Ring, rows: np.ndarray, batch_size: int, seq_len: int, seed: int):
        self.ring, self.rows, self.batch_size = ring, rows, batch_size
        self.positions, self.piece_starts = pack(ring.starts, ring.lengths, seq_len, seed)
        if len(self.positions) == 0:
            raise _too_short(len(ring), 2, "a target in any document")
        self.shuffled = functools.lru_cache(maxsize=2)(
            lambda epoch: random_order(seed, epoch, len(self.positions))
        )

    def __len__(self) -> int:
        return sys.maxsize // self.batch_size

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        numbers = step * self.batch_size + self.rows
        chosen = epoch_items(self.shuffled, len(self.positions), numbers)
        positions = self.positions[chosen].astype(np.int64)
        since = self.piece_starts[chosen].astype(np.int64)
        # Padding does not continue the last piece.
        ends = (positions[:, 1:] < 0) & (positions[:, :-1] >= 0)
        reset = (positions == since) & (positions >= 0)
        reset[:, 1:] |= ends
        return self.ring.batch(positions, reset=reset, has_target=positions >= 0, since=since)


class Evaluation:
    """The source of `eval_stream`."""

    def __init__(
        self, ring: Ring, rows: np.ndarray, batch_size: int, seq_len: int, whole_documents: bool
    ):
        self.ring, self.rows, self.seq_len = ring, rows, seq_len
        if not (ring.lengths > 1).any():
            raise _too_short(len(ring), 2, "a target in any document")
        if whole_documents:
            self.row_documents = _balance(ring.lengths, batch_size)
            self.row_length = max(int(ring.lengths[row].sum()) for row in self.row_documents)
        else:
            self.row_documents = None
            self.row_length = -(-len(ring) // batch_size)

    def __len__(self) -> int:
        return -(-self.row_length // self.seq_len)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        if not 0 <= step < len(self):
            raise IndexError(step)
        read = step * self.seq_len + np.arange(self.seq_len)
        if self.row_documents is None:
            positions = self.rows[:, None] * self.row_length + read[None]
            real = (read < self.row_length)[None] & (positions < len(self.ring))
            positions = np.where(real, positions, -1)
        else:
            positions = np.stack([self._read(self.row_documents[row], read) for row in self.rows])
        return self.ring.rows(positions, read)

    def _read(self, documents: np.ndarray, read: np.ndarray) -> np.ndarray:
        """Return the positions of a row that reads these documents in sequence."""
        if len(documents) == 0:
            return np.full(read.shape, -1)
        ends = np.cumsum(self.ring.lengths[documents])
        rank = np.minimum(np.searchsorted(ends, read, side="right"), len(documents) - 1)
        shift = self.ring.starts[documents] - (ends - self.ring.lengths[documents])
        return np.where(read < ends[-1], read + shift[rank], -1)


def _balance(lengths: np.ndarray, rows: int) -> list[np.ndarray]:
    """Assign documents to rows greedily: the longest first, to the row with the fewest tokens."""
    loads = np.zeros(rows, np.int64)
    chosen: list[list[int]] = [[] for _ in range(rows)]
    for document in np.argsort(-lengths, kind="stable"):
        row = int(np.argmin(loads))
        chosen[row].append(int(document))
        loads[row] += lengths[document]
    return [np.array(row, np.int64) for row in chosen]


def _aligned_labels(documents: Sequence[Document]) -> dict[str, np.ndarray]:
    """Concatenate the labels of all documents, -1 where a document lacks a label."""
    shapes = {name: v.shape[1:] for document in documents for name, v in document.labels.items()}
    return {
        name: np.concatenate(
            [d.labels.get(name, np.full((len(d), *shape), -1, np.int32)) for d in documents]
        )
        for name, shape in shapes.items()
    }


def _masked(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.where(real.reshape(real.shape + (1,) * (values.ndim - 2)), values, -1).astype(
        np.int32
    )


def _too_short(tokens: int, needed: int, reason: str) -> UserError:
    return UserError(
        f"corpus too short: {tokens} tokens in this split, {reason} needs at least {needed}; "
        "give more text, or lower batch_size or seq_len"
    )
