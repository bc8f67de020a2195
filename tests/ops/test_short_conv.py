"""Short convolution against its definition: values, carried state, resets, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.cells.base import where_reset
from jaxmodels.ops.short_conv import short_conv, short_conv_step
from jaxmodels.testing.lab import quick_jit

BATCH, WIDTH, TAPS = 3, 5, 4
ROUNDING = 1e-6  # four products and their sum in float32


def arguments(time, resets=True):
    rng = np.random.default_rng(time)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    inputs = draw(BATCH, TAPS - 1, WIDTH), draw(BATCH, time, WIDTH), draw(WIDTH, TAPS), draw(WIDTH)
    reset = rng.random((BATCH, time)) < 0.3
    reset[0, 0] = True
    return inputs, reset if resets else np.zeros_like(reset)


def reference(state, xs, taps, bias, reset):
    """float64, token by token: the window is emptied where a document starts."""
    state, xs, taps, bias = (np.asarray(z, np.float64) for z in (state, xs, taps, bias))
    out = np.zeros(xs.shape)
    last = np.zeros(state.shape)
    for row in range(xs.shape[0]):
        window = list(state[row])
        for t in range(xs.shape[1]):
            if reset[row, t]:
                window = [np.zeros(WIDTH)] * (TAPS - 1)
            window.append(xs[row, t])
            out[row, t] = bias + sum(taps[:, j] * window[j] for j in range(TAPS))
            window = window[1:]
        last[row] = window
    return last, out


def by_steps(state, xs, taps, bias, reset):
    def body(state, inputs):
        x, reset = inputs
        state = where_reset(reset, jnp.zeros_like(state), state)
        return short_conv_step(state, x, taps, bias)

    state, ys = jax.lax.scan(body, state, (xs.swapaxes(0, 1), reset.T))
    return state, ys.swapaxes(0, 1)


@pytest.mark.parametrize("time", [1, 2, 3, 4, 19])
def test_values_equal_definition(time):
    for resets in (False, True):
        inputs, reset = arguments(time, resets)
        want = reference(*inputs, reset)
        forms = [quick_jit(short_conv)(*inputs, reset), quick_jit(by_steps)(*inputs, reset)]
        if not resets:
            forms.append(quick_jit(short_conv)(*inputs))
        for got in forms:
            for g, w in zip(got, want, strict=True):
                np.testing.assert_allclose(g, w, rtol=ROUNDING, atol=10 * ROUNDING)


def test_gradients_equal_those_of_steps():
    inputs, reset = arguments(19)

    def gradients(run, *inputs):
        out, back = jax.vjp(lambda *inputs: run(*inputs, reset), *inputs)
        return back(jax.tree.map(jnp.cos, out))

    got, want = (quick_jit(lambda *a, run=run: gradients(run, *a))(*inputs)
                 for run in (short_conv, by_steps))  # fmt: skip
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=10 * ROUNDING, atol=10 * ROUNDING)


def test_documents_are_isolated_even_from_nan():
    (state, xs, taps, bias), _ = arguments(9)
    reset = np.zeros((BATCH, 9), bool)
    reset[:, 5] = True
    other = xs.copy()
    other[:, :5] = np.nan
    first, second = (
        quick_jit(short_conv)(s, x, taps, bias, reset)
        for s, x in ((state, xs), (np.full_like(state, np.nan), other))
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1][:, 5:], second[1][:, 5:])
