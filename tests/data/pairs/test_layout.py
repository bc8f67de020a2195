"""Rows of HRLM: their layout, and that a model is asked with what it was trained on."""

import numpy as np
import pytest

from jaxmodels.data.pairs.layout import lay_out, read_answer
from jaxmodels.data.tokenizers.special import EOS, PAD, SEP
from jaxmodels.errors import UserError

Q, A, T = [10, 11, 12], [20, 21], 9


def shown(mode, answer=A):
    row = lay_out(Q, answer, mode, T)
    labels = np.where(row.weights > 0, row.targets, -1)
    return row.inputs.tolist(), labels.tolist()


def test_nar_labels_are_at_the_blanks():
    inputs, labels = shown("nar")
    assert inputs == [10, 11, 12, SEP, PAD, PAD, PAD, PAD, PAD]
    assert labels == [-1, -1, -1, -1, 20, 21, EOS, -1, -1]


def test_prefix_ar_labels_are_shifted_by_one():
    inputs, labels = shown("prefix_ar")
    assert inputs == [10, 11, 12, SEP, 20, 21, PAD, PAD, PAD]
    assert labels == [-1, -1, -1, 20, 21, EOS, -1, -1, -1]


def test_as_written_rows_contain_the_answer():
    inputs, labels = shown("as_written")
    assert inputs == [10, 11, 12, EOS, SEP, 20, 21, EOS, PAD]
    assert labels == [-1, -1, -1, -1, -1, 20, 21, -1, -1]


@pytest.mark.parametrize(("mode", "alike"), [("nar", T), ("prefix_ar", 4), ("as_written", 5)])
def test_prompts_equal_training_rows_up_to_the_answer(mode, alike):
    """nar: all of the row. prefix_ar: up to SEP, the rest is decoded. As written: the places that
    are to be answered held the answer."""
    trained, asked = lay_out(Q, A, mode, T), lay_out(Q, None, mode, T)
    np.testing.assert_array_equal(trained.inputs[:alike], asked.inputs[:alike])
    assert not asked.weights.any()
    answered = (trained.weights > 0) & (trained.inputs != asked.inputs)
    assert answered.any() == (mode != "nar")
    if mode == "as_written":
        np.testing.assert_array_equal(
            trained.inputs[trained.weights > 0], trained.targets[trained.weights > 0]
        )


def test_grids():
    row = lay_out([1, 2, 3], [0, 5, 6], "grid", 3)
    assert row.inputs.tolist() == [1, 2, 3] and row.weights.tolist() == [0.0, 1.0, 1.0]
    with pytest.raises(UserError, match="a grid's answer has 2 cells, expected 3"):
        lay_out([1, 2, 3], [5, 6], "grid", 3)


def test_answers_are_read_back():
    prompt = lay_out(Q, None, "nar", T).inputs
    for answer in ([20, 21], [], [20, 21, 22, 23]):
        row = lay_out(Q, answer, "nar", T)
        given = np.where(row.weights > 0, row.targets, 7)
        assert read_answer(given, prompt).tolist() == answer
    endless = np.full(T, 9)
    assert read_answer(endless, prompt).tolist() == [9] * 5
    assert read_answer([9, 8, EOS, 7], [1, 1, 1, 1]).tolist() == [9, 8]


@pytest.mark.parametrize("mode", ("nar", "prefix_ar", "as_written"))
def test_rows_that_are_too_long_are_refused(mode):
    fits = {"nar": 4, "prefix_ar": 5, "as_written": 3}[mode]
    lay_out(Q, [20] * fits, mode, T)
    with pytest.raises(UserError, match=f"3 tokens and an answer of {fits + 1} does not fit in 9"):
        lay_out(Q, [20] * (fits + 1), mode, T)
    with pytest.raises(UserError, match="a question of 9 tokens does not fit"):
        lay_out([10] * T, None, mode, T)
    with pytest.raises(UserError, match="choose from: grid, nar"):
        lay_out(Q, A, "other", T)
