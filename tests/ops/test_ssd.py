"""Chunked SSD of Mamba-2 against NumPy, steps and finite differences; large decays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.ssd import ssd, ssd_step
from jaxmodels.testing.lab import quick_jit
from tests.ops.agree import by_steps, check_differences, close, gradients

BATCH, HEADS, HEAD, GROUPS, SIZE, CHUNK = 2, 4, 3, 2, 5, 16
CHANNELS = HEADS * HEAD // GROUPS
NAMES = ("state", "x", "delta", "a", "b", "c")
# Relative to the largest entry of an array: float32 adds up some 1e-7 a token, decaying.
VALUES = 1e-5
GRADIENTS = 1e-4
BFLOAT16 = 0.02  # 8 bits for the inputs of each product


def by_heads(op):
    """`ssd_step` or `ssd` with x as (..., H, P), b and c as (..., G, N), and without a skip."""

    def run(state, x, delta, a, b, c, *reset, **options):
        flat_x, b, c = (z.reshape(*z.shape[:-2], -1) for z in (x, b, c))
        state, y = op(state, flat_x, delta, a, b, c, jnp.zeros_like(a), *reset, **options)
        return state, y.reshape(x.shape)

    return run


chunked = functools.partial(by_heads(ssd), chunk_size=CHUNK)


def arguments(time, extreme=False):
    """Draw (arguments by NAMES, reset); `extreme`: retention from 1 - 1e-7 to 0."""
    rng = np.random.default_rng(time)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    delta = np.log1p(np.exp(draw(BATCH, time, HEADS) - 2.0))
    a = -np.exp(draw(HEADS))
    if extreme:
        delta = np.exp(6.0 * draw(BATCH, time, HEADS)).astype(np.float32)
        a = -np.exp(3.0 * draw(HEADS))
    b, c = draw(BATCH, time, GROUPS, SIZE), draw(BATCH, time, GROUPS, SIZE)
    state = draw(BATCH, GROUPS, SIZE, CHANNELS)
    reset = rng.random((BATCH, time)) < 0.1
    reset[0, 0], reset[1, :4] = True, False
    return (state, draw(BATCH, time, HEADS, HEAD), delta, a, b, c), reset


def reference(state, x, delta, a, b, c, reset):
    """Compute the Mamba-2 recurrence in float64, token by token and head by head."""
    state, x, delta, a, b, c = (np.asarray(z, np.float64) for z in (state, x, delta, a, b, c))
    out, last = np.zeros(x.shape), np.zeros(state.shape)
    per_group = HEADS // GROUPS
    for head in range(HEADS):
        group, place = divmod(head, per_group)
        channels = slice(place * HEAD, (place + 1) * HEAD)
        h = state[:, group, :, channels]
        for t in range(x.shape[1]):
            h = np.where(reset[:, t, None, None], 0.0, h)
            written = delta[:, t, head, None] * x[:, t, head]
            h = np.exp(delta[:, t, head] * a[head])[:, None, None] * h
            h = h + b[:, t, group, :, None] * written[:, None]
            out[:, t, head] = np.einsum("bn,bnp->bp", c[:, t, group], h)
        last[:, group, :, channels] = h
    return last, out


definition = by_steps(by_heads(ssd_step))


@pytest.mark.parametrize("time", [1, CHUNK - 1, CHUNK, CHUNK + 1, 257])
def test_values(time):
    inputs, reset = arguments(time)
    want = reference(*inputs, reset)
    close(quick_jit(chunked)(*inputs, reset), want, VALUES, ("state", "y"))
    close(quick_jit(definition)(*inputs, reset), want, VALUES, ("state", "y"))
    want = reference(*inputs, np.zeros_like(reset))
    close(quick_jit(chunked)(*inputs), want, VALUES, ("state", "y"))


@pytest.mark.parametrize("time", [CHUNK + 1, 257])
def test_gradients(time):
    inputs, reset = arguments(time)
    want = gradients(definition, inputs, reset)
    close(gradients(chunked, inputs, reset), want, GRADIENTS, NAMES)
    want = gradients(definition, inputs, np.zeros_like(reset))
    close(gradients(chunked, inputs, None), want, GRADIENTS, NAMES)


def test_gradients_equal_finite_differences():
    inputs, reset = arguments(CHUNK + 3)
    check_differences(reference, chunked, inputs, reset, VALUES, NAMES)


def test_extreme_decays():
    inputs, reset = arguments(257, extreme=True)
    close(quick_jit(chunked)(*inputs, reset), reference(*inputs, reset), VALUES, ("state", "y"))
    want = gradients(definition, inputs, reset)
    assert all(np.isfinite(z).all() for z in want)
    close(gradients(chunked, inputs, reset), want, GRADIENTS, NAMES)


def test_small_decays_after_large_ones_are_accurate():
    """A difference of plain cumulative sums is off by 1e-4 here, and above 0 at times."""
    (state, x, delta, a, b, c), reset = arguments(128)
    a = np.full_like(a, -100.0)
    delta = np.where(np.arange(128)[:, None] < 120, 1.0, 1e-5 * delta).astype(np.float32)
    inputs = (state, np.ones_like(x), delta, a, np.ones_like(b), np.ones_like(c))
    reset = np.zeros_like(reset)
    (_, want), (_, got) = reference(*inputs, reset), quick_jit(by_heads(ssd))(*inputs, reset)
    late = np.s_[:, 121:]
    np.testing.assert_allclose(got[late], want[late], rtol=1e-6)
    sums = np.cumsum(delta[:, 64:] * a, 1, dtype=np.float32)
    plain = np.exp(sums[:, 60:] - sums[:, 59:-1])
    exact = np.exp(np.float64(delta[:, 124:]) * a)
    assert np.abs(plain / exact - 1.0).max() > 1e-4


def test_equal_decays_never_grow():
    """Large |a|, as where rounding of the sums once gave exponents above 0 and then infinity."""
    (state, x, _, a, b, c), reset = arguments(257)
    delta = np.random.default_rng(0).uniform(0.1, 0.11, (BATCH, 257, HEADS)).astype(np.float32)
    inputs = (state, x, delta, np.full_like(a, -1e6), b, c)
    close(quick_jit(chunked)(*inputs, reset), reference(*inputs, reset), VALUES, ("state", "y"))
    assert all(np.isfinite(z).all() for z in gradients(chunked, inputs, reset))


def test_bfloat16_matmuls():
    inputs, reset = arguments(257)
    narrow = functools.partial(chunked, dtype="bfloat16")
    got, want = (quick_jit(run)(*inputs, reset) for run in (narrow, chunked))
    assert all(z.dtype == jnp.float32 for z in got)
    close(got, want, BFLOAT16, ("state", "y"))
    got, want = (gradients(run, inputs, reset) for run in (narrow, chunked))
    assert all(z.dtype == jnp.float32 for z in got)
    close(got, want, 2.0 * BFLOAT16, NAMES)


def test_reset_drops_nan_and_its_gradient():
    inputs, reset = arguments(CHUNK + 1)
    reset[:, 0] = True
    broken = (np.full_like(inputs[0], np.nan), *inputs[1:])
    run = quick_jit(chunked)
    jax.tree.map(np.testing.assert_array_equal, run(*inputs, reset), run(*broken, reset))
    out = gradients(chunked, inputs, reset), gradients(chunked, broken, reset)
    jax.tree.map(np.testing.assert_array_equal, *out)


def test_nan_in_state_ends_at_reset_inside_chunk():
    inputs, reset = arguments(CHUNK)
    reset[:, 5] = True
    broken = (np.full_like(inputs[0], np.nan), *inputs[1:])
    (state, y), (state2, y2) = (quick_jit(chunked)(*z, reset) for z in (inputs, broken))
    np.testing.assert_array_equal(state, state2)
    np.testing.assert_array_equal(y[:, 5:], y2[:, 5:])
