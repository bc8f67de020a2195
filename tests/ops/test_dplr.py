"""RWKV-7 recurrence: float64 NumPy, scanned steps, and the chunked implementation."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.rwkv7 import RWKV7Cell, RWKV7Config
from jaxmodels.ops.dplr.chunked import dplr_chunked, dplr_step
from jaxmodels.testing.lab import quick_jit, shaken
from tests.ops.delta import (
    BATCH,
    CHUNK,
    HEADS,
    KEYS,
    VALUES,
    against_float64,
    error,
    random_resets,
    sequential,
    sigmoid,
    unit,
)  # fmt: skip


def chunked(state, *tokens_and_reset, **options):
    """Run the bare recurrence on tokens (B, T, H, size)."""
    *tokens, reset = tokens_and_reset
    tokens = [x.reshape(*x.shape[:2], -1) for x in tokens]
    options = {"chunk_size": CHUNK} | options
    state, y = dplr_chunked(lambda recur, x, *_: recur(*x), state, tokens, (), reset, **options)
    return state, y.reshape(*y.shape[:2], state.shape[1], -1)


# The form for a CPU, a head at a time, and that for other hardware, two heads side by side.
FORMS = (chunked, functools.partial(chunked, pack=2))
both_forms = pytest.mark.parametrize("form", FORMS, ids=["heads", "pairs"])
# Float32 keeps 6e-8; sums of some hundred terms, passed on through a few chunks.
ROUNDING = 1e-5
LEAST = -np.exp(-0.5)  # log decay


def make(time, seed=0, log_w=None, rate=None, batch=BATCH, heads=HEADS):
    """(state, r, log_w, k, v, -kk, kk * a) as the cell makes them."""
    rng = np.random.default_rng(seed)

    def normal(size):
        return rng.standard_normal((batch, time, heads, size))

    kk = unit(normal(KEYS))
    log_w = LEAST * sigmoid(normal(KEYS)) if log_w is None else np.full(kk.shape, log_w)
    rate = sigmoid(normal(KEYS)) if rate is None else rate
    state = rng.standard_normal((batch, heads, KEYS, VALUES))
    inputs = (state, normal(KEYS), log_w, normal(KEYS), normal(VALUES), -kk, kk * rate)
    return tuple(np.float32(x) for x in inputs)


def in_numpy(state, r, log_w, k, v, a, b, reset):
    """Compute RWKV-7 in the paper's layout, S (V, K): S diag(w) + (S a) b^T + v k^T ; y = S r."""
    state, *xs = (np.asarray(x, np.float64) for x in (state, r, log_w, k, v, a, b))
    last, ys = np.empty_like(state), np.empty((*r.shape[:3], VALUES))
    for row, head in np.ndindex(*state.shape[:2]):
        S = state[row, head].T
        for t in range(r.shape[1]):
            rt, lw, kt, vt, at, bt = (x[row, t, head] for x in xs)
            if reset[row, t]:
                S = np.zeros_like(S)
            S = S @ np.diag(np.exp(lw)) + np.outer(S @ at, bt) + np.outer(vt, kt)
            ys[row, t, head] = S @ rt
        last[row, head] = S.T
    return last, ys


def test_step_and_chunks_against_numpy():
    inputs, reset = make(150), random_resets(np.random.default_rng(0), 150)
    want = in_numpy(*inputs, reset)
    chunked = [quick_jit(form)(*inputs, reset) for form in FORMS]
    stepped = quick_jit(lambda *inputs: sequential(dplr_step, inputs, reset))(*inputs)
    for got in (*chunked, stepped):
        assert max(map(error, got, want)) < ROUNDING


@both_forms
@pytest.mark.parametrize("time", [1, 63, 64, 65, 128, 129, 257])
def test_chunks_against_the_step(time, form):
    """Values and gradients of every input, from a state that is not zero."""
    reset = random_resets(np.random.default_rng(time), time)
    assert max(against_float64(dplr_step, form, make(time), reset)) < ROUNDING


@both_forms
@pytest.mark.parametrize("rate", [0.01, 1.0])
@pytest.mark.parametrize("log_w", [-1e-4, LEAST])
def test_extreme_decays(log_w, rate, form):
    """0.9999 and the fastest that the cell has; what is removed: nearly nothing, or all."""
    inputs = make(2 * CHUNK + 1, log_w=log_w, rate=rate)
    reset = np.zeros((BATCH, 2 * CHUNK + 1), bool)
    assert max(against_float64(dplr_step, form, inputs, reset)) < ROUNDING


@both_forms
def test_largest_chunk(form):
    """128 tokens at the fastest decay: the factors reach exp(39)."""
    inputs, reset = make(128, log_w=LEAST), np.zeros((BATCH, 128), bool)
    got = quick_jit(functools.partial(form, chunk_size=128))(*inputs, reset)
    assert max(map(error, got, in_numpy(*inputs, reset))) < ROUNDING


def test_packed_heads_are_isolated():
    """Bit for bit: nothing of the past of a reset, NaN included, nor of the future."""
    inputs, reset = make(2 * CHUNK + 5), np.zeros((BATCH, 2 * CHUNK + 5), bool)
    place = CHUNK + 7
    reset[:, place] = True
    run = quick_jit(functools.partial(FORMS[1], chunk_size=CHUNK))
    _, y = run(*inputs, reset)
    other = tuple(
        np.concatenate([z[:, :place], x[:, place:]], 1)
        for x, z in zip(inputs[1:], make(2 * CHUNK + 5, seed=1)[1:], strict=True)
    )
    state, y_other = run(np.full_like(inputs[0], np.nan), *other, reset)
    assert np.array_equal(y[:, place:], y_other[:, place:]) and np.isfinite(state).all()
    later = tuple(x.copy() for x in inputs)
    for x in later[1:]:
        x[:, place + 3 :] = 0.0
    assert np.array_equal(run(*later, reset)[1][:, : place + 3], y[:, : place + 3])


@pytest.mark.parametrize("keys", [1.0, 0.9])
def test_equal_keys(keys):
    """Stable where powers of the matrix to be inverted are large: equal keys, all removed."""
    inputs = list(make(CHUNK, log_w=-1e-4, rate=keys))
    inputs[5] = np.broadcast_to(inputs[5][:, :1], inputs[5].shape).copy()
    inputs[6] = -inputs[5] * np.float32(keys)
    reset = np.zeros((BATCH, CHUNK), bool)
    for form in FORMS:
        got = quick_jit(form)(*inputs, reset)
        assert max(map(error, got, in_numpy(*inputs, reset))) < ROUNDING


def test_16k_tokens():
    inputs = make(16384, log_w=-1e-4, batch=1, heads=1)
    reset = np.zeros((1, 16384), bool)
    got = quick_jit(chunked)(*inputs, reset)
    assert max(map(error, got, in_numpy(*inputs, reset))) < 1e-4  # rounding of 256 chunk states


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_16k_tokens_of_the_cell(dtype):
    cell = shaken(RWKV7Cell(RWKV7Config(16, ranks=(4,) * 4, dtype=dtype), rngs=nnx.Rngs(0)), 0)
    xs = np.random.default_rng(0).standard_normal((1, 16384, 16), np.float32)

    def loss(cell, xs):
        state, ys = cell(cell.initial_state(1), xs)
        return (ys**2).mean() + (state.wkv**2).mean()

    loss, gradients = quick_jit(jax.value_and_grad(loss, (0, 1)))(cell, xs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, gradients)))
