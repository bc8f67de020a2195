"""Batches from documents, as Grain datasets whose position is the step number.

Every element is one batch, computed from (documents, seed, step) alone, so the state of an iterator
is `{"next_index": step}`: resuming costs nothing and is exact. Shuffles are arg-sorted raw Philox
words, a stream that NumPy promises never to change, so a run repeats on another version of NumPy
too.

A batch is a dict of arrays with leading axis `batch_size // host_count`:

    inputs   int32   (rows, seq_len)   tokens read
    targets  int32   (rows, seq_len)   the token after each input; 0 where there is none
    weights  float32 (rows, seq_len)   1 where `targets` counts, else 0
    reset    bool    (rows, seq_len)   True: the recurrent state starts afresh before this input
    <label>  int32   (rows, seq_len, ...)   labels at the input's position, -1 = none

A target never lies in another document than its input. Global row r lives on host
`r // (batch_size // host_count)`: concatenating the hosts' batches gives the batch of one host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxmodels.cli import did_you_mean
from jaxmodels.data.loading import grain_dataset, rows_of_host
from jaxmodels.data.text.batching import (
    Evaluation,
    GrowingTracks,
    Labeller,
    Packed,
    Ring,
    Tracks,
    Windows,
)
from jaxmodels.data.text.documents import Document
from jaxmodels.errors import UserError

if TYPE_CHECKING:
    import grain

MODES = ("tracks", "windows", "packed")


def make_stream(
    documents: Sequence[Document],
    *,
    batch_size: int,
    seq_len: int,
    seed: int,
    mode: str = "tracks",
    host_index: int = 0,
    host_count: int = 1,
    labels: Labeller | None = None,
    carry_state: bool = True,
    lengths: Sequence[tuple[int, int]] = (),
    prefetch: int = 2,
) -> grain.IterDataset:
    """Return endless training batches.

    Modes:
      tracks: the documents, shuffled anew each epoch, form one ring that is entered at a random
        point and cut in `batch_size` equal tracks; a step gives every track its next `seq_len`
        tokens. Hand the model's state from batch to batch. `reset` marks document starts and the
        first token of a track in each epoch. An epoch leaves out fewer than batch_size * seq_len
        tokens, others each time.
      windows: every epoch cuts the ring of documents in windows of `seq_len`, from a random point,
        and shuffles them. `reset` at column 0 and at document starts: no state to carry.
      packed: whole documents side by side in rows of `seq_len` (best fit); longer ones are cut in
        pieces. `reset` where a document or piece begins; the rest of a row has weight 0. Each epoch
        gives every target once, in new order.

    Args:
      documents: what to read; empty ones are ignored.
      batch_size: global number of rows.
      seq_len: tokens a row.
      seed: any integer; the order of everything follows from it.
      mode: see above.
      host_index, host_count: which rows to make. batch_size must be a multiple of host_count.
      labels: derives further fields, byte tokens only. Labels that documents bring come along
        anyway.
      carry_state: with "tracks": False says that the state starts afresh with every batch. Derived
        labels then ask for nothing that stands before the batch.
      lengths: with "tracks": (first step, seq_len) ascending from step 0, for segments that grow;
        `seq_len` is then without effect.
      prefetch: batches made ahead by a thread; 0 = none. Changes speed only.

    Returns:
      A `grain.IterDataset`; `iter()` of it has get_state()/set_state() with next_index == step.

    Raises:
      UserError: too few tokens for these sizes, or an unknown mode.
    """
    if mode not in MODES:
        raise UserError(f"data.mode: unknown mode {mode!r}{did_you_mean(mode, MODES)}")
    ring = Ring(documents, labels)
    rows = _rows(batch_size, seq_len, host_index, host_count)
    if lengths and mode != "tracks":
        raise UserError(f"data.mode: segments that grow need mode 'tracks', got {mode!r}")
    if lengths:
        source = GrowingTracks(ring, rows, batch_size, lengths, seed, carry_state)
    elif mode == "tracks":
        source = Tracks(ring, rows, batch_size, seq_len, seed, carry_state)
    else:
        source = {"windows": Windows, "packed": Packed}[mode](ring, rows, batch_size, seq_len, seed)
    return grain_dataset(source, prefetch)


def eval_stream(
    documents: Sequence[Document],
    *,
    batch_size: int,
    seq_len: int,
    whole_documents: bool = False,
    host_index: int = 0,
    host_count: int = 1,
    labels: Labeller | None = None,
    prefetch: int = 2,
) -> grain.IterDataset:
    """Return finite batches; each token but the first of a document is a target exactly once.

    The weights of all batches sum to `num_targets(documents)`, the bytes behind them to
    `num_target_bytes(documents)`. Hand the state from batch to batch, beginning with the initial
    one.

    With `whole_documents=False` the documents end to end are cut in `batch_size` equal rows: the
    fewest steps, but batch_size - 1 places continue a document with a fresh state. With True each
    document is read whole by one row, so that the result does not depend on batch_size; rows are
    balanced greedily.

    Args and errors as `make_stream`.
    """
    ring = Ring(documents, labels)
    rows = _rows(batch_size, seq_len, host_index, host_count)
    return grain_dataset(Evaluation(ring, rows, batch_size, seq_len, whole_documents), prefetch)


def _rows(batch_size: int, seq_len: int, host_index: int, host_count: int) -> np.ndarray:
    if batch_size < 1 or seq_len < 1:
        raise UserError(f"batch_size and seq_len must be positive, got {batch_size} and {seq_len}")
    return rows_of_host(batch_size, host_index, host_count)
