"""Layout of a question and its answer in a row of HRLM, the same in training and inference.

    grid        the puzzle; labels wherever the answer is given
    nar         [INPUT][SEP][blank ... to the end];  labels OUTPUT, EOS on the first blanks
    prefix_ar   [INPUT][SEP][OUTPUT][PAD ...];       each label one place earlier, then EOS
    as_written  [INPUT][EOS][SEP][OUTPUT][EOS];      labels on OUTPUT, where it stands

Without an answer the same function makes the row that a model is asked with. In modes nar and
prefix_ar that is what training showed, up to the answer; as written it is not (SYSTEMS 5.3): there
the answer itself was in the row, and the label of its end was missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxmodels.cli import did_you_mean
from jaxmodels.data.tokenizers.special import EOS, PAD, SEP
from jaxmodels.errors import UserError

MODES = ("grid", "nar", "prefix_ar", "as_written")


class Row(NamedTuple):
    """One row, each array (seq_len,).

    Attributes:
      inputs: int32, what the model reads.
      targets: int32, the label at each place, 0 where there is none.
      weights: float32, 1 where there is a label.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def lay_out(question: Sequence[int], answer: Sequence[int] | None, mode: str, seq_len: int) -> Row:
    """Lay out a question, and its answer if it is known, in a row.

    Args:
      question, answer: ids without EOS. In a grid both have seq_len ids; a place where the answer
        is PAD has no label.
      mode: one of `MODES`.
      seq_len: of the row.

    Raises:
      UserError: they do not fit; names both lengths.
    """
    if mode not in MODES:
        raise UserError(f"mode: unknown {mode!r}{did_you_mean(mode, MODES)}")
    question = np.asarray(question, np.int32)
    known = None if answer is None else np.asarray(answer, np.int32)
    if mode == "grid":
        return _grid(question, known, seq_len)
    ended = [EOS] if mode == "as_written" else []
    prompt = np.concatenate([question, ended, [SEP]]).astype(np.int32)
    longest = seq_len - len(prompt)
    needed = 1 if known is None else len(known) + (mode != "prefix_ar")
    if needed > longest:
        of = "" if known is None else f" and an answer of {len(known)}"
        raise UserError(
            f"seq_len: a question of {len(question)} tokens{of} does not fit in {seq_len}"
        )
    inputs, targets = np.full((2, seq_len), PAD, np.int32)
    weights = np.zeros(seq_len, np.float32)
    inputs[: len(prompt)] = prompt
    if known is None:
        return Row(inputs, targets, weights)
    begin = len(prompt)
    if mode == "as_written":
        inputs[begin : begin + len(known) + 1] = [*known, EOS]
        labels = known
    else:
        labels = np.append(known, EOS)
        if mode == "prefix_ar":
            inputs[begin : begin + len(known)] = known
            begin -= 1  # SEP predicts the first token of the answer
    targets[begin : begin + len(labels)] = labels
    weights[begin : begin + len(labels)] = 1.0
    return Row(inputs, targets, weights)


def _grid(question, answer, seq_len):
    for name, ids in (("question", question), ("answer", answer)):
        if ids is not None and len(ids) != seq_len:
            raise UserError(f"seq_len: a grid's {name} has {len(ids)} places, expected {seq_len}")
    targets = np.zeros(seq_len, np.int32) if answer is None else answer
    return Row(question, targets, (targets != PAD).astype(np.float32))


def read_answer(tokens: Sequence[int], prompt: Sequence[int]) -> np.ndarray:
    """Return the ids of an answer, up to EOS, from a non-autoregressive model's output (L-60).

    Args:
      tokens: (seq_len,), the likeliest id at each place.
      prompt: (seq_len,), what the model read; the answer begins after its first SEP, or at the
        first place if it has none.
    """
    places = np.flatnonzero(np.asarray(prompt) == SEP)
    answer = np.asarray(tokens)[places[0] + 1 if len(places) else 0 :]
    ends = np.flatnonzero(answer == EOS)
    return answer[: ends[0]] if len(ends) else answer
