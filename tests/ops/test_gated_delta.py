"""Gated delta rule: float64 NumPy, scanned steps, the chunked implementation, and RWKV-7."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.gated_delta import GatedDeltaCell, GatedDeltaConfig
from jaxmodels.ops.dplr import dplr_step
from jaxmodels.ops.gated_delta import gated_delta_chunked, gated_delta_step
from jaxmodels.testing.lab import quick_jit
from tests.ops.delta import (
    BATCH,
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

# The form for a CPU, a head at a time, and that for other hardware, two heads side by side.
FORMS = (gated_delta_chunked, functools.partial(gated_delta_chunked, pack=2))
both_forms = pytest.mark.parametrize("form", FORMS, ids=["heads", "pairs"])
# Float32 keeps 6e-8; sums of some hundred terms, passed on through a few chunks.
ROUNDING = 1e-5


def make(time, seed=0, g=None, beta=None, batch=BATCH, heads=HEADS):
    """(state, q, k, v, g, beta); g(rng, shape) gives other decays than exp(normal)."""
    rng = np.random.default_rng(seed)

    def normal(*size):
        return rng.standard_normal((batch, time, heads, *size))

    state = rng.standard_normal((batch, heads, KEYS, VALUES))
    q, k, v = normal(KEYS), unit(normal(KEYS)), normal(VALUES)
    log_decay = -np.exp(normal()) if g is None else g(rng, q.shape[:3])
    beta = sigmoid(normal()) if beta is None else np.full(q.shape[:3], beta)
    return tuple(np.float32(x) for x in (state, q, k, v, log_decay, beta))


def in_numpy(state, q, k, v, g, beta, reset):
    """Compute S <- e^g S; S <- S + beta k (v - S^T k)^T; y = S^T q in float64."""
    state, *xs = (np.asarray(x, np.float64) for x in (state, q, k, v, g, beta))
    last, ys = np.empty_like(state), np.empty((*q.shape[:3], VALUES))
    for row, head in np.ndindex(*state.shape[:2]):
        S = state[row, head]
        for t in range(q.shape[1]):
            qt, kt, vt, gt, bt = (x[row, t, head] for x in xs)
            S = np.exp(gt) * (np.zeros_like(S) if reset[row, t] else S)
            S = S + bt * np.outer(kt, vt - S.T @ kt)
            ys[row, t, head] = S.T @ qt
        last[row, head] = S
    return last, ys


def test_step_and_chunks_against_numpy():
    inputs, reset = make(150), random_resets(np.random.default_rng(0), 150)
    want = in_numpy(*inputs, reset)
    chunked = [quick_jit(form)(*inputs, reset) for form in FORMS]
    stepped = quick_jit(lambda *inputs: sequential(gated_delta_step, inputs, reset))(*inputs)
    for got in (*chunked, stepped):
        assert max(map(error, got, want)) < ROUNDING


@both_forms
@pytest.mark.parametrize("time", [1, 63, 64, 65, 128, 129, 257])
def test_chunks_against_the_step(time, form):
    """Values and gradients of every input, from a state that is not zero."""
    reset = random_resets(np.random.default_rng(time), time)
    errors = against_float64(gated_delta_step, form, make(time), reset)
    assert max(errors) < ROUNDING


DECAYS = {
    "none": lambda rng, shape: np.zeros(shape),
    "0.9999": lambda rng, shape: np.full(shape, -1e-4),
    "all": lambda rng, shape: np.full(shape, -1e4),
    # A sum from the chunk's start would reach some -1e4 and round off what is left of the others.
    "mixed": lambda rng, shape: rng.choice([0.0, -1e-4, -0.1, -5.0, -1e3], shape),
}


@both_forms
@pytest.mark.parametrize("beta", [0.01, 1.0])
@pytest.mark.parametrize("decays", DECAYS)
def test_extreme_decays(decays, beta, form):
    inputs, reset = make(129, g=DECAYS[decays], beta=beta), np.zeros((BATCH, 129), bool)
    errors = against_float64(gated_delta_step, form, inputs, reset)
    assert max(errors) < ROUNDING


@both_forms
def test_repeated_token(form):
    """Equal keys, all of the old value replaced: the hardest system that a chunk can pose."""
    state, q, k, v, g, beta = make(129, g=DECAYS["0.9999"], beta=1.0)
    k = np.broadcast_to(k[:, :1], k.shape) + 0.0
    reset = np.zeros((BATCH, 129), bool)
    errors = against_float64(gated_delta_step, form, (state, q, k, v, g, beta), reset)
    assert max(errors) < ROUNDING


def test_gated_delta_is_special_case_of_dplr():
    """w = e^g, a = -e^g k, b = beta k, and beta k v^T is written."""
    inputs, reset = make(40), random_resets(np.random.default_rng(0), 40)
    state, q, k, v, g, beta = (np.float64(x) for x in inputs)
    g, beta = g[..., None], beta[..., None]
    log_w = np.broadcast_to(g, k.shape)
    with jax.enable_x64(True):
        as_dplr = (state, q, log_w, beta * k, v, -np.exp(g) * k, beta * k)
        got = quick_jit(lambda *inputs: sequential(dplr_step, inputs, reset))(*as_dplr)
    assert max(map(error, got, in_numpy(*inputs, reset))) < 1e-13  # float64


def test_16k_tokens():
    inputs = make(16384, g=DECAYS["0.9999"], batch=1, heads=1)
    reset = np.zeros((1, 16384), bool)
    got = quick_jit(gated_delta_chunked)(*inputs, reset)
    assert max(map(error, got, in_numpy(*inputs, reset))) < ROUNDING


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_16k_tokens_of_the_cell(dtype):
    cell = GatedDeltaCell(GatedDeltaConfig(16, dtype=dtype), rngs=nnx.Rngs(0))
    xs = np.random.default_rng(0).standard_normal((1, 16384, 16), np.float32)

    def loss(cell, xs):
        state, ys = cell(cell.initial_state(1), xs)
        return (ys**2).mean() + (state.memory**2).mean()

    loss, gradients = quick_jit(jax.value_and_grad(loss, (0, 1)))(cell, xs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, gradients)))
