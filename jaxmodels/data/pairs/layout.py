"""Layout of a question and its answer in a row of HRLM, the same in training and inference.

    grid        the puzzle; labels wherever the answer is given
    nar         [INPUT][SEP][blank ... to the end];  labels OUTPUT, EOS on the first blanks
    prefix_ar   [INPUT][SEP][OUTPUT][PAD ...];       labels shifted left by one, then EOS
    as_written  [INPUT][EOS][SEP][OUTPUT][EOS];      labels on OUTPUT itself

Without an answer, the row is the prompt for inference. In modes nar and prefix_ar it equals the
training row up to the answer. In as_written it does not: training rows contained the answer itself,
and no label for its end.
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
      targets: int32, the label at each position, 0 without one.
      weights: float32, 1 at labels, else 0.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def lay_out(question: Sequence[int], answer: Sequence[int] | None, mode: str, seq_len: int) -> Row:
    """Return a row with a question and, if given, its answer.

    Args:
      question, answer: ids without EOS. In a grid both have seq_len ids; positions where the answer
        is PAD have no label.
      mode: one of `MODES`.
      seq_len: length of the row.

    Raises:
      UserError: they do not fit; names both lengths.
    """
    if mode not in MODES:
        raise UserError(f"mode: unknown {mode!r}{did_you_mean(mode, MODES)}")
    question = np.asarray(question, np.int32)
    answer = None if answer is None else np.asarray(answer, np.int32)
    if mode == "grid":
        return _grid(question, answer, seq_len)
    end = [EOS] if mode == "as_written" else []
    prompt = np.concatenate([question, end, [SEP]]).astype(np.int32)
    needed = 1 if answer is None else len(answer) + (mode != "prefix_ar")
    if len(prompt) + needed > seq_len:
        rest = "" if answer is None else f" and an answer of {len(answer)}"
        raise UserError(
            f"seq_len: a question of {len(question)} tokens{rest} does not fit in {seq_len}"
        )
    inputs, targets = np.full((2, seq_len), PAD, np.int32)
    weights = np.zeros(seq_len, np.float32)
    inputs[: len(prompt)] = prompt
    if answer is None:
        return Row(inputs, targets, weights)
    begin = len(prompt)
    if mode == "as_written":
        inputs[begin : begin + len(answer) + 1] = [*answer, EOS]
        labels = answer
    else:
        labels = np.append(answer, EOS)
        if mode == "prefix_ar":
            inputs[begin : begin + len(answer)] = answer
            begin -= 1  # SEP predicts the first token of the answer
    targets[begin : begin + len(labels)] = labels
    weights[begin : begin + len(labels)] = 1.0
    return Row(inputs, targets, weights)


def _grid(question, answer, seq_len):
    for name, ids in (("question", question), ("answer", answer)):
        if ids is not None and len(ids) != seq_len:
            raise UserError(f"seq_len: a grid's {name} has {len(ids)} cells, expected {seq_len}")
    targets = np.zeros(seq_len, np.int32) if answer is None else answer
    return Row(question, targets, (targets != PAD).astype(np.float32))


def read_answer(tokens: Sequence[int], prompt: Sequence[int]) -> np.ndarray:
    """Return the ids of an answer, up to EOS, from the output of a non-autoregressive model.

    Args:
      tokens: (seq_len,) most likely id at each position.
      prompt: (seq_len,) what the model read; the answer begins after its first SEP, or at the start
        if it has none.
    """
    separators = np.flatnonzero(np.asarray(prompt) == SEP)
    answer = np.asarray(tokens)[separators[0] + 1 if len(separators) else 0 :]
    ends = np.flatnonzero(answer == EOS)
    return answer[: ends[0]] if len(ends) else answer
