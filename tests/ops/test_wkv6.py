"""RWKV-6 recurrence: steps and chunks against float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.wkv6 import wkv6_chunked, wkv6_step
from jaxmodels.testing.lab import quick_jit

BATCH, HEADS, KEYS, VALUES, CHUNK = 2, 2, 6, 5, 16
# Float32 keeps 6e-8; sums of some hundred terms, passed on from chunk to chunk.
ROUNDING = 1e-5


def reference(state, r, log_w, k, v, bonus, reset):
    """Token by token in float64. -> (state, y)."""
    state, r, log_w, k, v, bonus = (
        np.asarray(x, np.float64) for x in (state, r, log_w, k, v, bonus)
    )
    ys = []
    for t in range(r.shape[1]):
        state = np.where(reset[:, t, None, None, None], 0.0, state)
        outer = k[:, t, :, :, None] * v[:, t, :, None, :]
        ys.append(np.einsum("bhk,bhkv->bhv", r[:, t], state + bonus[..., None] * outer))
        state = np.exp(log_w[:, t])[..., None] * state + outer
    return state, np.stack(ys, 1)


def scan(state, r, log_w, k, v, bonus, reset):
    """Run the op one step per token."""

    def body(state, inputs):
        *inputs, reset = inputs
        state = jnp.where(reset[:, None, None, None], 0.0, state)
        return wkv6_step(state, *inputs, bonus)

    by_time = tuple(x.swapaxes(0, 1) for x in (r, log_w, k, v, reset))
    state, y = jax.lax.scan(body, state, by_time)
    return state, y.swapaxes(0, 1)


def chunked(*arguments, chunk_size=CHUNK, pack=None):
    return wkv6_chunked(*arguments, chunk_size=chunk_size, pack=pack)


# The form for a CPU, a head at a time, and that for other hardware, two heads side by side.
FORMS = (chunked, functools.partial(chunked, pack=2))
both_forms = pytest.mark.parametrize("form", FORMS, ids=["heads", "pairs"])


def inputs(time, resets=0.05, log_w=None, seed=0):
    """A state that has read something, and what follows; decays of all sizes, mixed."""
    rng = np.random.default_rng(seed + time)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    keys = (BATCH, time, HEADS, KEYS)
    if log_w is None:
        log_w = -np.exp(3.0 * normal(*keys) - 2.0)
    state = normal(BATCH, HEADS, KEYS, VALUES)
    v = normal(BATCH, time, HEADS, VALUES)
    reset = rng.random((BATCH, time)) < resets
    return state, normal(*keys), log_w, normal(*keys), v, normal(HEADS, KEYS), reset


def error(got, want):
    """Largest, relative to the largest entry."""
    return np.abs(np.asarray(got, np.float64) - want).max() / max(np.abs(want).max(), 1e-30)


def assert_is_reference(got, arguments):
    for g, w in zip(jax.device_get(got), reference(*arguments), strict=True):
        assert g.dtype == np.float32 and error(g, w) < ROUNDING


@both_forms
@pytest.mark.parametrize("time", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 257])
def test_values(time, form):
    arguments = inputs(time)
    assert_is_reference(quick_jit(form)(*arguments), arguments)
    assert_is_reference(quick_jit(scan)(*arguments), arguments)
    arguments = inputs(time, resets=0.0)
    assert_is_reference(quick_jit(form)(*arguments[:-1]), arguments)


@pytest.mark.parametrize("chunk_size", [1, 2, 13, 64, 300])
def test_any_chunk_size(chunk_size):
    arguments = inputs(100)

    def run(*arguments):
        return chunked(*arguments, chunk_size=chunk_size)

    assert_is_reference(quick_jit(run)(*arguments), arguments)


def gradients(form, arguments):
    """Return gradients of a loss on every output and on the last state."""
    rng = np.random.default_rng(9)
    of_state = rng.standard_normal(arguments[0].shape)
    of_y = rng.standard_normal(arguments[4].shape)

    def loss(*inputs):
        state, y = form(*inputs, arguments[-1])
        numpy = np if isinstance(y, np.ndarray) else jnp
        weights = (x.astype(y.dtype) for x in (of_state, of_y))
        return sum(numpy.sum(x * w) for x, w in zip((state, y), weights, strict=True))

    if form is reference:
        return loss
    return jax.device_get(quick_jit(jax.grad(loss, range(6)))(*arguments[:-1]))


@both_forms
@pytest.mark.parametrize("time", [CHUNK - 1, CHUNK + 1, 257])
def test_gradients(time, form):
    arguments = inputs(time)
    got, want = (gradients(form, arguments) for form in (form, scan))
    for g, w in zip(got, want, strict=True):
        assert error(g, w) < ROUNDING


def test_gradients_equal_those_of_steps():
    """Central differences of the float64 recurrence, along a random way in each input."""
    arguments = inputs(2 * CHUNK + 1, resets=0.03)
    found, loss = gradients(chunked, arguments), gradients(reference, arguments)
    rng = np.random.default_rng(3)
    exact = [np.asarray(x, np.float64) for x in arguments[:-1]]
    for i, gradient in enumerate(found):
        way = rng.standard_normal(gradient.shape)

        def at(h, i=i, way=way):
            return loss(*(x + h * way if j == i else x for j, x in enumerate(exact)))

        slope = (at(1e-5) - at(-1e-5)) / 2e-5
        # The sum cancels: measured against the length of the gradient.
        assert abs(np.sum(gradient * way) - slope) < 1e-5 * np.linalg.norm(gradient)


def extreme_decays(time):
    """Retention 0.9999; what 16 tokens factored would overflow on; next to nothing; in turn."""
    log_w = np.empty((BATCH, time, HEADS, KEYS), np.float32)
    log_w[..., 0], log_w[..., 1], log_w[..., 2], log_w[..., 3] = -1e-4, -7.4, -50.0, -1e4
    log_w[..., 4] = np.where(np.arange(time) % 5 == 0, -1e4, -1e-4)[None, :, None]
    log_w[..., 5] = np.where(np.arange(time) % 29 == 0, -20.0, -1e-3)[None, :, None]
    return log_w


@pytest.mark.parametrize("chunk_size", [16, 64])
def test_extreme_decays(chunk_size):
    """After e^-10000 a sum of the chunk's decays would keep nothing of the small ones."""
    arguments = inputs(257, 0.01, log_w=extreme_decays(257))

    def run(*arguments):
        return chunked(*arguments, chunk_size=chunk_size)

    assert_is_reference(quick_jit(run)(*arguments), arguments)
    got, want = (gradients(form, arguments) for form in (run, scan))
    for g, w in zip(got, want, strict=True):
        assert np.isfinite(g).all() and error(g, w) < ROUNDING
    # Each channel by itself: the gradient of a slow decay is far larger than that of a fast one.
    for channel in (0, 4, 5):
        assert error(got[1][..., channel], want[1][..., channel]) < ROUNDING


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_16k_tokens(dtype):
    time = 16384
    state, r, log_w, k, v, bonus, reset = inputs(time, 0.0, log_w=extreme_decays(time))
    r, k, v = (jnp.asarray(x, dtype) for x in (r, k, v))
    reset[:, -200] = True

    def loss(*inputs):
        after, y = wkv6_chunked(*inputs, reset, chunk_size=32)
        return jnp.sum(jnp.sin(y)), (after, y)

    run = quick_jit(jax.value_and_grad(loss, range(6), has_aux=True))
    (_, (after, y)), found = run(state, r, log_w, k, v, bonus)
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves((y, found)))
    r, k, v = (np.asarray(x, np.float32) for x in (r, k, v))
    last = [x[:, -200:] for x in (r, log_w, k, v)]
    assert_is_reference((after, y[:, -200:]), (state, *last, bonus, reset[:, -200:]))
