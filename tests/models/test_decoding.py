"""Cached autoregressive decoding equals full forward passes."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from jaxmodels.data.tokenizers.special import EOS, PAD, SEP
from jaxmodels.errors import UserError
from jaxmodels.models.decoding import decode_step, generate, prefill
from jaxmodels.testing.lab import quick_jit

S = 12
SIZES = {"vocab_size": 17, "seq_len": S, "width": 16, "head_size": 8, "mlp_multiple": 8}
SIZES |= {"high_layers": 1, "low_layers": 2, "grad_calls": 2}
PROMPTS = ((5, 6, 7, SEP), (9, SEP), (4, 4, 8, 10, 11, SEP))
LENGTHS = np.array([len(prompt) for prompt in PROMPTS], np.int32)
ANSWERS = np.array([[12, 13, 5, 14, 6, 2], [16, 4, 9, 9, 10, 5], [7, 8, 9, 10, 11, 4]], np.int32)
MODELS = {
    "hrm_text": {},
    "transformer": {"recurrent": False},
    "trm": {"inject": True, "head_gate": False, "norm": "post", "shared": True, "high_layers": 2}
    | {"window": 3, "mask_pad": True},
}


def rows_of(prompts):
    rows = np.full((len(prompts), S), PAD, np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = prompt
    return rows


class Reader:
    """A model and its compiled functions."""

    def __init__(self, changes):
        self.model = jaxmodels.create("hrlm/prefix_ar", seed=1, **SIZES | changes)
        self._whole = quick_jit(
            lambda model, rows, lengths: model(None, rows, lengths=lengths)[1].logits
        )
        self._generate = quick_jit(lambda model, rows: generate(model, rows))

    def whole(self, rows, lengths=LENGTHS):
        return np.asarray(self._whole(self.model, rows, lengths))

    def generate(self, rows):
        return np.asarray(self._generate(self.model, rows))


@pytest.fixture(scope="module", params=MODELS)
def reader(request):
    return Reader(MODELS[request.param])


def test_decode_step_equals_full_forward(reader):
    """Prompts of unequal length in one batch; the last one's answer fills its row."""
    rows = rows_of(PROMPTS)
    step = quick_jit(decode_step)
    cache, logits = quick_jit(prefill)(reader.model, rows)
    for count in range(ANSWERS.shape[1] + 1):
        # What stands in a row later on is not read.
        expected = reader.whole(rows)[np.arange(3), LENGTHS + count - 1]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
        if count < ANSWERS.shape[1]:
            rows[np.arange(3), LENGTHS + count] = ANSWERS[:, count]
            cache, logits = step(reader.model, cache, jnp.asarray(ANSWERS[:, count]))
    assert cache.lengths.tolist() == (LENGTHS + 6).tolist()


def test_generate_is_greedy_until_eos(reader):
    got = reader.generate(rows_of(PROMPTS))
    assert got.shape == (3, S) and got.dtype == np.int32
    rows, done = rows_of(PROMPTS), np.zeros(3, bool)
    for count in range(S):
        last = np.minimum(LENGTHS + count, S) - 1
        wanted = np.where(done, EOS, reader.whole(rows)[np.arange(3), last].argmax(-1))
        np.testing.assert_array_equal(got[:, count], wanted)
        # The last place of a row still predicts a token, for which it has no room.
        done |= (wanted == EOS) | (LENGTHS + count >= S)
        open_rows = np.flatnonzero(~done)
        rows[open_rows, LENGTHS[open_rows] + count] = wanted[open_rows]
    assert done.all()


def test_answers_are_independent_of_batch(reader):
    together = reader.generate(rows_of(PROMPTS))
    for i in range(3):
        alone = reader.generate(rows_of([PROMPTS[i]] * 3))
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.fixture(scope="module")
def small():
    """A model that never finds PAD the likeliest."""
    model = Reader({"low_cycles": 1, "low_layers": 1}).model
    model.head.kernel[...] = model.head.kernel[...].at[:, PAD].set(0.0)
    return model


def test_prefill_accepts_prompt_lengths(small):
    """Then no token is SEP, and what stands behind a prompt is not read."""
    rows = rows_of([(5, SEP, 7, 6), (9, 8), (4, SEP, 8, SEP, 11, 7)])
    rows[1, 2:] = 13
    run = quick_jit(lambda model, rows, lengths: prefill(model, rows, lengths)[1])
    whole = quick_jit(lambda model, rows, lengths: model(None, rows, lengths=lengths)[1].logits)
    expected = np.asarray(whole(small, rows, LENGTHS))[np.arange(3), LENGTHS - 1]
    got = run(small, rows, LENGTHS)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    rows[1, 2:] = 14
    np.testing.assert_array_equal(run(small, rows, LENGTHS), got)


def test_generate_stops_at_configured_eos(small):
    """Without one, only the end of the row or the requested length ends an answer."""
    run = quick_jit(lambda model, rows: generate(model, rows, 8))
    model = copy.copy(small)
    rows = rows_of(PROMPTS)
    model.config = dataclasses.replace(small.config, eos_id=None)
    endless = np.asarray(run(model, rows))
    # The third prompt has 6 places left, and one token more is predicted.
    assert [(row != PAD).sum() for row in endless] == [8, 8, 7]
    model.config = dataclasses.replace(small.config, eos_id=int(endless[0, 2]))
    got = np.asarray(run(model, rows))[0]
    first = endless[0].tolist().index(endless[0, 2])
    assert got.tolist() == endless[0, : first + 1].tolist() + [endless[0, 2]] * (7 - first)


def test_other_modes_are_rejected():
    with pytest.raises(UserError, match="'nar' does not answer token by token"):
        jax.eval_shape(lambda rows: prefill(jaxmodels.create("hrlm", **SIZES), rows), rows_of([]))
