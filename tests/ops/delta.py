"""Inputs, resets, references and errors for the tests of the two delta rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.testing.lab import quick_jit

BATCH, HEADS, KEYS, VALUES, CHUNK = 2, 2, 8, 6, 64


def unit(x):
    """x over its length along the last axis."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def random_resets(rng, time):
    """Return random resets, bool (BATCH, time), and some around chunk boundaries."""
    reset = rng.random((BATCH, time)) < 0.03
    for row, places in enumerate(((0, CHUNK, CHUNK + 1), (1, CHUNK - 1, 3 * CHUNK))):
        reset[row, [place for place in places if place < time]] = True
    return reset


def sequential(step, inputs, reset):
    """Scan step(state, *tokens) over inputs = (state, *sequences)."""
    state, *xs = inputs

    def body(state, x):
        *x, restart = x
        return step(jnp.where(restart[:, None, None, None], 0.0, state), *x)

    by_time = [jnp.moveaxis(x, 1, 0) for x in (*xs, reset)]
    state, ys = jax.lax.scan(body, state, by_time)
    return state, jnp.moveaxis(ys, 0, 1)


@functools.cache
def with_gradients(run):
    """((state, ys), gradients of all inputs) of run(inputs, reset), compiled once a shape."""

    def both(inputs, reset, cotangents):
        out, back = jax.vjp(lambda *inputs: run(inputs, reset), *inputs)
        return out, back(cotangents)

    return quick_jit(both)


@functools.cache
def forms(step, chunked):
    """(chunk form, step by step), as `with_gradients` takes them."""
    return (
        lambda inputs, reset: chunked(*inputs, reset, chunk_size=CHUNK),
        lambda inputs, reset: sequential(step, inputs, reset),
    )


def error(got, want):
    """Return the largest error relative to the largest entry."""
    assert got.shape == want.shape
    return np.abs(np.asarray(got, np.float64) - want).max() / (np.abs(want).max() or 1.0)


def against_float64(step, chunked, inputs, reset):
    """(of values, of gradients): errors of the chunk form in float32, the step's in float64."""
    rng = np.random.default_rng(0)
    shapes = (inputs[0].shape, (*inputs[1].shape[:3], inputs[0].shape[-1]))
    cotangents = tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    fast, slow = (with_gradients(run) for run in forms(step, chunked))
    got = jax.device_get(fast(inputs, reset, cotangents))
    with jax.enable_x64(True):
        inputs, cotangents = jax.tree.map(np.float64, (inputs, cotangents))
        want = jax.device_get(slow(inputs, reset, cotangents))
    return [max(map(error, *pair)) for pair in zip(got, want, strict=True)]
