"""GRU: against float64 NumPy, and the sequence against the step, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.gru import gru, gru_step

BATCH, TIME, WIDTH = 3, 21, 5


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(BATCH, WIDTH))
    xs = rng.normal(size=(TIME, BATCH, 3 * WIDTH))
    kernel, bias = rng.normal(size=(WIDTH, 3 * WIDTH)), rng.normal(size=(3 * WIDTH,))
    return [z.astype(np.float32) for z in (h, xs, kernel, bias)]


def in_numpy(h, x, kernel, bias):
    """One token in float64, gates written out one by one (PyTorch's documentation of GRU)."""
    h, x, kernel, bias = (z.astype(np.float64) for z in (h, x, kernel, bias))
    (x_r, x_z, x_n), parts = np.split(x, 3, -1), np.split(kernel, 3, -1)
    h_r, h_z, h_n = (h @ part + b for part, b in zip(parts, np.split(bias, 3), strict=True))

    def sigmoid(v):
        return 1.0 / (1.0 + np.exp(-v))

    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * h_n)
    return (1.0 - z) * n + z * h


def test_step_is_the_definition():
    h, xs, kernel, bias = drawn()
    want = in_numpy(h, xs[0], kernel, bias)
    np.testing.assert_allclose(gru_step(h, xs[0], kernel, bias), want, atol=1e-6)


def by_steps(h, xs, kernel, bias, keep, enter, active):
    hs = []
    for t in range(len(xs)):
        h = jnp.where(keep[t, :, None], h, 0.0) + enter[t]
        h = jnp.where(active[t, :, None], gru_step(h, xs[t], kernel, bias), h)
        hs.append(h)
    return h, jnp.stack(hs)


@pytest.mark.parametrize("time", [1, 16, 21])
def test_sequence_equals_steps(time):
    h, xs, kernel, bias = drawn()
    rng = np.random.default_rng(1)
    keep, active = rng.random((time, BATCH)) < 0.8, rng.random((time, BATCH)) < 0.8
    enter = rng.normal(size=(time, BATCH, WIDTH)).astype(np.float32) * ~keep[..., None]
    weights = rng.normal(size=(time, BATCH, WIDTH)).astype(np.float32)

    def loss(run):
        def value(h, xs, kernel, bias, enter):
            last, hs = run(h, xs, kernel, bias, enter)
            return jnp.sum(weights * hs) + jnp.sum(jnp.sin(last)), hs

        return jax.value_and_grad(value, (0, 1, 2, 3, 4), has_aux=True)

    def fast(h, xs, kernel, bias, enter):
        return gru(h, xs, kernel, bias, keep=keep, enter=enter, active=active)

    def slow(h, xs, kernel, bias, enter):
        return by_steps(h, xs, kernel, bias, keep, enter, active)

    arguments = h, xs[:time], kernel, bias, enter
    got, want = (jax.jit(loss(run))(*arguments) for run in (fast, slow))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_what_does_not_enter_is_nothing():
    h, xs, kernel, bias = drawn()
    ones = np.ones((TIME, BATCH), bool)
    enter = np.zeros((TIME, BATCH, WIDTH), np.float32)
    plain = gru(h, xs, kernel, bias)
    full = gru(h, xs, kernel, bias, keep=ones, enter=enter, active=ones)
    np.testing.assert_array_equal(plain[1], full[1])
    nan = np.full_like(h, np.nan)
    restarted = gru(nan, xs, kernel, bias, keep=np.arange(TIME)[:, None].repeat(BATCH, 1) > 0)
    fresh = gru(0.0 * h, xs, kernel, bias)
    np.testing.assert_allclose(restarted[1], fresh[1], atol=1e-6)
