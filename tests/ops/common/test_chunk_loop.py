"""`chunk_loop` against the same body in a Python loop: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.common.chunk_loop import chunk_loop
from jaxmodels.testing.lab import quick_jit

BATCH, WIDTH, CHUNK = 3, 5, 8
ROUNDING = 1e-5  # sums of some ten terms in float32


def body(state, tokens, reset, params, kept):
    """A sum with a state of two parts, and something dear that is a constant of the gradient."""
    x, gate = tokens
    mean, count = state
    if kept is None:
        kept = jnp.cos(jax.lax.stop_gradient(x))
    fresh = ~reset.any(1)[:, None]
    y = jnp.tanh(x @ params["mix"] + mean[:, None]) * gate * kept + count[:, None, None]
    mean = jnp.where(fresh, mean, 0.0) * params["keep"][None] + y.mean(1)
    return ((mean, count * 0.5 + gate.sum((1, 2))), y), kept


def in_python(state, tokens, reset, params, size):
    ys = []
    for start in range(0, reset.shape[1], size):
        parts = tuple(x[:, start : start + size] for x in tokens)
        (state, y), _ = body(state, parts, reset[:, start : start + size], params, None)
        ys.append(y)
    return state, jnp.concatenate(ys, 1)


loop = functools.partial(chunk_loop, body)


def make(time):
    rng = np.random.default_rng(time)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    state = normal(BATCH, WIDTH), normal(BATCH)
    tokens = normal(BATCH, time, WIDTH), normal(BATCH, time, WIDTH)
    params = {"mix": normal(WIDTH, WIDTH), "keep": normal(WIDTH)}
    return state, tokens, rng.random((BATCH, time)) < 0.1, params


def run(function, time, **options):
    """(outputs, gradients of all floating arguments) for random cotangents."""
    state, tokens, reset, params = make(time)

    def both(*arguments):
        out, back = jax.vjp(lambda s, t, p: function(s, t, reset, p, **options), *arguments)
        rng = np.random.default_rng(0)
        cotangents = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), out)
        return out, back(cotangents)

    return quick_jit(both)(state, tokens, params)


def agree(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        assert np.abs(g - w).max() < ROUNDING * np.abs(w).max()


@pytest.mark.parametrize("time", [1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5])
def test_values_and_gradients(time):
    agree(run(loop, time, chunk_size=CHUNK), run(in_python, time, size=CHUNK))


def test_row_groups():
    """Groups of rows, one after the other, make the same."""
    want = run(in_python, 3 * CHUNK + 2, size=CHUNK)
    agree(run(loop, 3 * CHUNK + 2, chunk_size=CHUNK, rows=1), want)


def test_time_axis():
    def turned(state, tokens, reset, params, kept):
        out, kept = body(state, tuple(x.swapaxes(1, 2) for x in tokens), reset, params, kept)
        return (out[0], out[1].swapaxes(1, 2)), kept

    def other(state, tokens, reset, params):
        tokens = tuple(x.swapaxes(1, 2) for x in tokens)
        state, y = chunk_loop(turned, state, tokens, reset, params, chunk_size=CHUNK, time_axis=2)
        return state, y.swapaxes(1, 2)

    time = 2 * CHUNK + 3
    agree(run(other, time), run(in_python, time, size=CHUNK))


def test_kept_values_are_computed_once():
    """The backward pass uses the kept value instead of computing the cosine again."""
    state, tokens, reset, params = make(3 * CHUNK)

    def loss(tokens):
        return chunk_loop(body, state, tokens, reset, params, chunk_size=CHUNK)[1].sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(tokens))
    assert program.count(" cos ") == 1 and program.count(" tanh ") == 2
