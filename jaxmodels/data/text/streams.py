"""Batches of documents as Grain datasets whose position is the step number.

Every element is one batch, a function of (documents, seed, step) alone, so the state of an iterator
is `{"next_index": step}`: resuming is exact and costs nothing.

A batch is a dict of arrays with leading axis `batch_size // host_count`:

    inputs   int32   (rows, seq_len)   tokens read
    targets  int32   (rows, seq_len)   the token after each input; 0 where there is none
    weights  float32 (rows, seq_len)   1 where `targets` counts, else 0
    reset    bool    (rows, seq_len)   True: the recurrent state is reset before this input
    <label>  int32   (rows, seq_len, ...)   labels at the input's position, -1 = none

A target is always in the document of its input. Global row r is on host
`r // (batch_size // host_count)`: concatenating the hosts' batches gives the batch of one host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxmodels.cli import did_you_mean
from jaxmodels.data.labels.relations import RelationLabeller
from jaxmodels.data.loading import grain_dataset, rows_of_host
from jaxmodels.data.text.batching import Ring, evaluation, packed, tracks, windows
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
    labels: RelationLabeller | None = None,
    carry_state: bool = True,
    lengths: Sequence[tuple[int, int]] = (),
    prefetch: int = 2,
) -> grain.IterDataset:
    """Return endless training batches.

    Modes:
      tracks: the documents, reshuffled each epoch, form a ring that is entered at a random point
        and cut into `batch_size` equal tracks; a step gives every track its next `seq_len` tokens.
        Carry the model's state from batch to batch. `reset` marks document starts and the first
        token of a track in each epoch. An epoch leaves out fewer than batch_size * seq_len tokens,
        different ones each time.
      windows: every epoch cuts the ring into windows of `seq_len` from a random point, and shuffles
        them. `reset` at column 0 and at document starts: no state to carry.
      packed: whole documents packed into rows of `seq_len` (best fit); longer ones are cut into
        pieces. `reset` where a document or piece begins; the rest of a row has weight 0. Each epoch
        gives every target once.

    Args:
      documents: the text; empty documents are ignored.
      batch_size: global number of rows.
      seq_len: tokens per row.
      seed: any integer; determines every order.
      mode: see above.
      host_index, host_count: determine the rows to make. batch_size must be a multiple of
        host_count.
      labels: source of derived labels, for byte tokens only, in addition to those of documents.
      carry_state: with "tracks": False if the state is reset with every batch. Derived labels then
        do not depend on tokens before the batch.
      lengths: with "tracks": (first step, seq_len) ascending from step 0, for growing segments;
        replaces `seq_len`.
      prefetch: batches made ahead by a thread; 0 = none. Affects speed only.

    Returns:
      A `grain.IterDataset`; its `iter()` has get_state()/set_state() with next_index == step.

    Raises:
      UserError: too few tokens for these sizes, or an unknown mode.
    """
    if mode not in MODES:
        raise UserError(f"data.mode: unknown mode {mode!r}{did_you_mean(mode, MODES)}")
    ring = Ring(documents, labels)
    rows = _rows(batch_size, seq_len, host_index, host_count)
    if lengths and mode != "tracks":
        raise UserError(f"data.mode: growing segments need mode 'tracks', got {mode!r}")
    if mode == "tracks":
        lengths = lengths or [(0, seq_len)]
        source = tracks(ring, rows, batch_size, lengths, seed, carry_state)
    else:
        make = windows if mode == "windows" else packed
        source = make(ring, rows, batch_size, seq_len, seed)
    return grain_dataset(source, prefetch)


def eval_stream(
    documents: Sequence[Document],
    *,
    batch_size: int,
    seq_len: int,
    whole_documents: bool = False,
    host_index: int = 0,
    host_count: int = 1,
    labels: RelationLabeller | None = None,
    prefetch: int = 2,
) -> grain.IterDataset:
    """Return finite batches in which every token but the first of a document is a target once.

    The weights of all batches sum to `num_targets(documents)`, the bytes of their targets to
    `num_target_bytes(documents)`. Carry the state from batch to batch.

    With `whole_documents=False`, the concatenated documents are cut into `batch_size` equal rows:
    the fewest steps, but batch_size - 1 cuts reset the state within a document. With True, each
    document is in one row, so that the result does not depend on batch_size; rows are balanced
    greedily.

    Args and errors as in `make_stream`.
    """
    ring = Ring(documents, labels)
    rows = _rows(batch_size, seq_len, host_index, host_count)
    source, steps = evaluation(ring, rows, batch_size, seq_len, whole_documents)
    return grain_dataset(source, prefetch, steps)


def _rows(batch_size: int, seq_len: int, host_index: int, host_count: int) -> np.ndarray:
    if batch_size < 1 or seq_len < 1:
        raise UserError(f"batch_size and seq_len must be positive, got {batch_size} and {seq_len}")
    return rows_of_host(batch_size, host_index, host_count)
