"""Selective scan of Mamba-1: both chunk implementations against NumPy, steps, differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.selective_scan import chunked, selective_scan, selective_scan_step
from jaxmodels.testing.lab import quick_jit
from tests.ops.agree import by_steps, check_differences, close, gradients

BATCH, CHANNELS, SIZE, CHUNK = 2, 6, 4, 16
NAMES = ("state", "x", "delta", "a", "b", "c")
# Relative to the largest entry of an array: float32 adds up some 1e-7 a token, decaying.
VALUES = 1e-5
GRADIENTS = 1e-4


@pytest.fixture(scope="module", params=["in_turn", "at_once"])
def scan(request):
    """Return the op with the chunk implementation of CPUs or of accelerators."""
    patch = pytest.MonkeyPatch()
    if request.param == "at_once":
        patch.setattr(chunked.jax.lax, "platform_dependent", lambda *a, default, **_: default(*a))
    yield functools.partial(selective_scan, chunk_size=CHUNK)
    patch.undo()


def arguments(time, extreme=False):
    """Draw (arguments by NAMES, reset); `extreme`: retention from 1 - 1e-7 to 0."""
    rng = np.random.default_rng(time)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    delta = np.log1p(np.exp(draw(BATCH, time, CHANNELS) - 2.0))
    a = -np.exp(draw(SIZE, CHANNELS))
    if extreme:
        delta = np.exp(6.0 * draw(BATCH, time, CHANNELS)).astype(np.float32)
        a = -np.exp(3.0 * draw(SIZE, CHANNELS))
    b, c = draw(BATCH, time, SIZE), draw(BATCH, time, SIZE)
    inputs = draw(BATCH, SIZE, CHANNELS), draw(BATCH, time, CHANNELS), delta, a, b, c
    reset = rng.random((BATCH, time)) < 0.1
    reset[0, 0], reset[1, :4] = True, False
    return inputs, reset


def reference(state, x, delta, a, b, c, reset):
    """Compute the Mamba-1 recurrence in float64, token by token."""
    state, x, delta, a, b, c = (np.asarray(z, np.float64) for z in (state, x, delta, a, b, c))
    ys = []
    for t in range(x.shape[1]):
        state = np.where(reset[:, t, None, None], 0.0, state)
        decay = np.exp(delta[:, t, None] * a)
        state = decay * state + (delta[:, t] * x[:, t])[:, None] * b[:, t, :, None]
        ys.append(np.einsum("bnd,bn->bd", state, c[:, t]))
    return state, np.stack(ys, 1)


definition = by_steps(selective_scan_step)


@pytest.mark.parametrize("time", [1, CHUNK - 1, CHUNK, CHUNK + 1, 257])
def test_values(scan, time):
    inputs, reset = arguments(time)
    close(quick_jit(scan)(*inputs, reset), reference(*inputs, reset), VALUES, ("state", "y"))
    no_reset = np.zeros_like(reset)
    close(quick_jit(scan)(*inputs), reference(*inputs, no_reset), VALUES, ("state", "y"))


@pytest.mark.parametrize("time", [CHUNK + 1, 257])
def test_gradients(scan, time):
    inputs, reset = arguments(time)
    want = gradients(definition, inputs, reset)
    close(gradients(scan, inputs, reset), want, GRADIENTS, NAMES)
    no_reset = np.zeros_like(reset)
    close(gradients(scan, inputs, None), gradients(definition, inputs, no_reset), GRADIENTS, NAMES)


def test_gradients_equal_finite_differences(scan):
    inputs, reset = arguments(CHUNK + 3)
    check_differences(reference, scan, inputs, reset, VALUES, NAMES)


def test_extreme_decays(scan):
    inputs, reset = arguments(257, extreme=True)
    close(quick_jit(scan)(*inputs, reset), reference(*inputs, reset), VALUES, ("state", "y"))
    want = gradients(definition, inputs, reset)
    assert all(np.isfinite(z).all() for z in want)
    close(gradients(scan, inputs, reset), want, GRADIENTS, NAMES)


def test_reset_drops_nan_and_its_gradient(scan):
    inputs, reset = arguments(CHUNK + 1)
    reset[:, 0] = True
    broken = (np.full_like(inputs[0], np.nan), *inputs[1:])
    run = quick_jit(scan)
    jax.tree.map(np.testing.assert_array_equal, run(*inputs, reset), run(*broken, reset))
    out = gradients(scan, inputs, reset), gradients(scan, broken, reset)
    jax.tree.map(np.testing.assert_array_equal, *out)


def test_memory_excludes_per_token_states():
    """Forward and backward of 2,048 tokens need less than one array (B, T, N, D)."""
    shapes = [(2, 16, 64), (2, 2048, 64), (2, 2048, 64), (16, 64), (2, 2048, 16), (2, 2048, 16)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def both(*inputs):
        out, back = jax.vjp(selective_scan, *inputs)
        return back(out)

    memory = jax.jit(both).lower(*inputs).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 2 * 2048 * 16 * 64 / 2
