"""RWKV-4 recurrence: steps and chunks against explicit sums in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.wkv4 import WKV4State, wkv4, wkv4_initial, wkv4_step
from jaxmodels.testing.lab import quick_jit

BATCH, WIDTH, CHUNK = 2, 8, 16
# Of float32 (1e-7) over 257 tokens, the sum of weights included.
VALUES = 1e-5
GRADIENTS = 2e-5


def reference(state, k, v, decay, bonus, reset):
    """Compute (y, p e^o, q e^o, top) in float64 from the weights of all pairs of tokens.

    The last two, sums after the last token, are over e^top.
    """
    p, q, o = (np.asarray(x, np.float64)[:, None] for x in state)  # (B, 1, C)
    k, v, decay, bonus = (np.asarray(x, np.float64) for x in (k, v, decay, bonus))
    time = k.shape[1]
    segment = np.cumsum(reset, 1)
    # A column for the entering state, one a token; a row for the read at each token, one more for
    # the state after all.
    t, i = np.arange(time + 1)[:, None, None], np.arange(-1, time)[None, :, None]
    exponent = np.concatenate([o, k], 1)[:, None] - np.where(i < 0, t, t - 1 - i) * decay
    own = np.zeros((time + 1, time + 1), bool)
    own[np.arange(time), np.arange(time) + 1] = True
    exponent = np.where(own[..., None], (bonus + np.concatenate([o, k], 1))[:, None], exponent)
    of_row = np.concatenate([segment, segment[:, -1:]], 1)
    of_column = np.concatenate([np.zeros((len(k), 1)), segment], 1)
    seen = (of_row[:, :, None] == of_column[:, None]) & ((i < t)[..., 0] | own)
    exponent = np.where(seen[..., None], exponent, -np.inf)
    top = exponent.max(2, keepdims=True)
    weight = np.exp(exponent - top)
    numerator = (weight * np.concatenate([p, v], 1)[:, None]).sum(2)
    denominator = (weight * np.concatenate([q, np.ones_like(v)], 1)[:, None]).sum(2)
    y = numerator[:, :-1] / denominator[:, :-1]
    return y, numerator[:, -1], denominator[:, -1], top[:, -1, 0]


def scan(state, k, v, decay, bonus, reset):
    """Run the op one step per token."""
    empty = wkv4_initial(BATCH, WIDTH)

    def body(state, inputs):
        k, v, reset = inputs
        state = jax.tree.map(lambda e, s: jnp.where(reset[:, None], e, s), empty, state)
        return wkv4_step(state, k, v, decay, bonus)

    by_time = (k.swapaxes(0, 1), v.swapaxes(0, 1), reset.T)
    state, y = jax.lax.scan(body, state, by_time)
    return state, y.swapaxes(0, 1)


def chunked(*arguments, chunk_size=CHUNK):
    return wkv4(*arguments, chunk_size=chunk_size)


def inputs(time, resets=0.05, keys=1.0, decay=None, seed=0):
    """A state that has read something, and what follows."""
    rng = np.random.default_rng(seed + time)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    state = WKV4State(normal(BATCH, WIDTH), np.exp(normal(BATCH, WIDTH)), normal(BATCH, WIDTH))
    if decay is None:
        decay = np.exp(np.linspace(-5, 2, WIDTH, dtype=np.float32))
    k, v = keys * normal(BATCH, time, WIDTH), normal(BATCH, time, WIDTH)
    return state, k, v, decay, normal(WIDTH), rng.random((BATCH, time)) < resets


def error(got, want):
    """Largest, relative to the largest entry."""
    return np.abs(np.asarray(got, np.float64) - want).max() / max(np.abs(want).max(), 1e-30)


def assert_is_reference(got, arguments, tolerance):
    state, y = jax.device_get(got)
    want, numerator, denominator, top = reference(*arguments)
    assert error(y, want) < tolerance
    # Another point of reference is the same state: compare what does not depend on it.
    assert error(state.p / state.q, numerator / denominator) < tolerance
    size = state.o.astype(np.float64) + np.log(state.q.astype(np.float64))
    assert np.abs(size - top - np.log(denominator)).max() < tolerance * max(np.abs(top).max(), 1)


@pytest.mark.parametrize("time", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 257])
def test_values(time):
    arguments = inputs(time)
    for form in (chunked, scan):
        assert_is_reference(quick_jit(form)(*arguments), arguments, VALUES)
    arguments = inputs(time, resets=0.0)
    assert_is_reference(quick_jit(chunked)(*arguments[:-1]), arguments, VALUES)


def gradients(form, arguments):
    """Return gradients of a loss on every output and on the last sums."""

    def loss(state, k, v, decay, bonus):
        after, y = form(state, k, v, decay, bonus, arguments[-1])
        rng = np.random.default_rng(9)
        read = jnp.sum(y * rng.standard_normal(y.shape, np.float32))
        # What of the state does not depend on its point of reference, which rounds.
        return read + jnp.sum(jnp.cos(jnp.log(after.q) + after.o)) + jnp.sum(after.p / after.q)

    return jax.device_get(quick_jit(jax.grad(loss, range(5)))(*arguments[:-1]))


@pytest.mark.parametrize("time", [CHUNK + 1, 257])
def test_gradients(time):
    arguments = inputs(time)
    got, want = (gradients(form, arguments) for form in (chunked, scan))
    assert not np.any(want[0].o)  # a point of reference has none
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert error(g, w) < GRADIENTS


def test_gradients_equal_those_of_steps():
    """`stop_gradient` on the exponents is exact: central differences of the float64 sums agree."""
    arguments = inputs(2 * CHUNK + 1, resets=0.03)
    reset, rng = arguments[-1], np.random.default_rng(3)
    weights = rng.standard_normal(arguments[1].shape)

    def loss(*arguments):
        return jnp.sum(chunked(*arguments, reset)[1] * weights.astype(np.float32))

    found = jax.device_get(quick_jit(jax.grad(loss, range(5)))(*arguments[:-1]))
    for name, i in (("p", 0), ("q", 1), ("k", 3), ("v", 4), ("decay", 5), ("bonus", 6)):
        flat, tree = jax.tree.flatten(arguments[:-1])
        flat = [np.asarray(x, np.float64) for x in flat]
        way = rng.standard_normal(flat[i].shape)

        def at(h, i=i, flat=flat, way=way, tree=tree):
            moved = [x + h * way if j == i else x for j, x in enumerate(flat)]
            return np.sum(reference(*jax.tree.unflatten(tree, moved), reset)[0] * weights)

        slope = (at(1e-5) - at(-1e-5)) / 2e-5
        gradient = jax.tree.leaves(found)[i].astype(np.float64)
        # Both sums cancel: measured against the length of the gradient.
        assert abs(np.sum(gradient * way) - slope) < 1e-5 * np.linalg.norm(gradient) + 1e-6, name


# Retention 0.9999 a token; half; what is left of the token before is e^-25.
EXTREMES = np.float32([1e-4, 1e-4, 1e-6, 0.7, 0.7, 5.0, 25.0, 25.0])


@pytest.mark.parametrize("keys", [1.0, 60.0])
def test_extreme_keys(keys):
    """Keys of +-60: e^60 and e^-60 together; o - w rounds a decay of 1e-4 by 1 %."""
    arguments = inputs(257, 0.01, decay=EXTREMES)
    sign = np.where(np.random.default_rng(0).random(arguments[1].shape) < 0.5, -1, 1)
    arguments = (arguments[0], np.float32(keys * sign), *arguments[2:])
    for form in (chunked, scan):
        assert_is_reference(quick_jit(form)(*arguments), arguments, VALUES)
    got, want = (gradients(form, arguments) for form in (chunked, scan))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.isfinite(g).all() and error(g, w) < GRADIENTS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_16k_tokens(dtype):
    """Finite, and where the last document is short enough for the sums, still right."""
    state, k, v, decay, bonus, _ = inputs(16384, keys=20.0, decay=EXTREMES)
    k, v = jnp.asarray(k, dtype), jnp.asarray(v, dtype)
    reset = np.zeros(k.shape[:2], bool)
    reset[:, -200] = True

    def loss(state, k, v, decay, bonus):
        after, y = wkv4(state, k, v, decay, bonus, reset, chunk_size=128)
        return jnp.sum(jnp.sin(y)) + jnp.sum(after.p / after.q), (after, y)

    run = quick_jit(jax.value_and_grad(loss, range(5), has_aux=True))
    (_, (after, y)), found = run(state, k, v, decay, bonus)
    assert y.dtype == jnp.float32
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves((y, found)))
    last = (np.asarray(x[:, -200:], np.float32) for x in (k, v))
    assert_is_reference((after, y[:, -200:]), (state, *last, decay, bonus, reset[:, -200:]), VALUES)
