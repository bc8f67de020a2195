"""Sources of batches, one function per mode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxmodels.data.labels.relations import RelationLabeller
from jaxmodels.data.random import epoch_items, random_order, random_words
from jaxmodels.data.text.documents import Document
from jaxmodels.data.text.packing import pack
from jaxmodels.errors import UserError

Source = Callable[[int], dict[str, np.ndarray]]  # step -> batch, a function of the step alone


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


def tracks(
    ring: Ring,
    rows: np.ndarray,
    batch_size: int,
    lengths: Sequence[tuple[int, int]],
    seed: int,
    carry_state: bool,
) -> Source:
    """Return the source of `make_stream(mode="tracks")`.

    Tracks are multiples of the longest segment. A segment may span two epochs: the first token of
    a track has its reset anywhere in a segment.

    Args:
      lengths: (first step, seq_len), ascending from step 0.
    """
    first_steps, sizes = zip(*lengths, strict=True)
    longest = max(sizes)
    needed = batch_size * longest
    track_length = len(ring) // needed * longest
    if track_length == 0:
        raise _too_short(len(ring), needed, f"batch_size {batch_size} x seq_len {longest}")
    read_before = [0, *np.cumsum(np.diff(first_steps) * sizes[:-1], dtype=np.int64).tolist()]

    @functools.lru_cache(maxsize=2)
    def shuffled(epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the order of documents, their starts in that order, and the ring's entry point."""
        words = random_words(seed, epoch, len(ring.lengths) + 1)
        order = np.argsort(words[1:], kind="stable")
        starts = np.cumsum(ring.lengths[order]) - ring.lengths[order]
        return order, starts, int(words[0] % np.uint64(len(ring)))

    def cut(epoch: int, read: np.ndarray, remembered: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the arguments of `Ring.batch` (rows, n) for some tokens of each track.

        Args:
          read: (n,) indices of the tokens within the track.
          remembered: (n,) tokens before each that the state has read without a reset.
        """
        order, starts, entry = shuffled(epoch)
        place = (entry + (rows * track_length)[:, None] + read[None]) % len(ring)
        rank = np.searchsorted(starts, place, side="right") - 1
        offset = place - starts[rank]
        document = order[rank]
        positions = ring.starts[document] + offset
        return (
            positions,
            (offset == 0) | (read == 0)[None],  # reset
            positions + 1 < ring.ends[document],  # has a target
            positions - np.minimum(offset, remembered[None]),  # since
        )

    def batch(step: int) -> dict[str, np.ndarray]:
        phase = int(np.searchsorted(first_steps, step, side="right")) - 1
        column = np.arange(sizes[phase])
        before = read_before[phase] + (step - first_steps[phase]) * sizes[phase]
        epochs, read = np.divmod(before + column, track_length)
        remembered = read if carry_state else np.minimum(read, column)
        parts = [
            cut(int(epoch), read[epochs == epoch], remembered[epochs == epoch])
            for epoch in np.unique(epochs)
        ]
        return ring.batch(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))

    return batch


def windows(ring: Ring, rows: np.ndarray, batch_size: int, seq_len: int, seed: int) -> Source:
    """Return the source of `make_stream(mode="windows")`; window = step * batch_size + row."""
    count, column = len(ring) // seq_len, np.arange(seq_len)
    if count == 0:
        raise _too_short(len(ring), seq_len, f"one window of seq_len {seq_len}")

    @functools.lru_cache(maxsize=2)
    def shuffled(epoch: int) -> np.ndarray:
        """Return the first position of each window of an epoch."""
        words = random_words(seed, epoch, count + 1)
        order = np.argsort(words[1:], kind="stable")
        return (words[0] % np.uint64(len(ring))).astype(np.int64) + order * seq_len

    def batch(step: int) -> dict[str, np.ndarray]:
        begin = epoch_items(shuffled, count, step * batch_size + rows)
        return ring.rows((begin[:, None] + column[None]) % len(ring), column)

    return batch


def packed(ring: Ring, rows: np.ndarray, batch_size: int, seq_len: int, seed: int) -> Source:
    """Return the source of `make_stream(mode="packed")`; packed row = step * batch_size + row.

    Grain's packing works on iterators, so that row n requires all rows before it. Here documents
    are packed once and rows are shuffled, so that any step can be made directly.
    """
    all_positions, piece_starts = pack(ring.starts, ring.lengths, seq_len, seed)
    count = len(all_positions)
    if count == 0:
        raise _too_short(len(ring), 2, "a target in any document")

    @functools.lru_cache(maxsize=2)
    def shuffled(epoch: int) -> np.ndarray:
        return random_order(seed, epoch, count)

    def batch(step: int) -> dict[str, np.ndarray]:
        chosen = epoch_items(shuffled, count, step * batch_size + rows)
        positions = all_positions[chosen].astype(np.int64)
        since = piece_starts[chosen].astype(np.int64)
        # Padding does not continue the last piece.
        ends = (positions[:, 1:] < 0) & (positions[:, :-1] >= 0)
        reset = (positions == since) & (positions >= 0)
        reset[:, 1:] |= ends
        return ring.batch(positions, reset=reset, has_target=positions >= 0, since=since)

    return batch


def evaluation(
    ring: Ring, rows: np.ndarray, batch_size: int, seq_len: int, whole_documents: bool
) -> tuple[Source, int]:
    """Return the source of `eval_stream`, and its number of batches."""
    if not (ring.lengths > 1).any():
        raise _too_short(len(ring), 2, "a target in any document")
    chosen = _balance(ring.lengths, batch_size) if whole_documents else []
    loads = [int(ring.lengths[documents].sum()) for documents in chosen]
    row_length = max(loads, default=-(-len(ring) // batch_size))

    def batch(step: int) -> dict[str, np.ndarray]:
        read = step * seq_len + np.arange(seq_len)
        if whole_documents:
            positions = np.stack([_read(ring, chosen[row], read) for row in rows])
        else:
            positions = rows[:, None] * row_length + read[None]
            real = (read < row_length)[None] & (positions < len(ring))
            positions = np.where(real, positions, -1)
        return ring.rows(positions, read)

    return batch, -(-row_length // seq_len)


def _read(ring: Ring, documents: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Return the positions of a row that reads these documents in sequence."""
    if len(documents) == 0:
        return np.full(read.shape, -1)
    ends = np.cumsum(ring.lengths[documents])
    rank = np.minimum(np.searchsorted(ends, read, side="right"), len(documents) - 1)
    shift = ring.starts[documents] - (ends - ring.lengths[documents])
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
    mask = real.reshape(real.shape + (1,) * (values.ndim - 2))
    return np.where(mask, values, -1).astype(np.int32)


def _too_short(tokens: int, needed: int, reason: str) -> UserError:
    return UserError(
        f"corpus too short: {tokens} tokens in this split, {reason} needs at least {needed}; "
        "give more text, or lower batch_size or seq_len"
    )
