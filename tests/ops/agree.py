"""Comparison of two implementations of a recurrence, for tests of the state-space ops."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.cells.base import where_reset
from jaxmodels.testing.lab import quick_jit


def close(got, want, tolerance, names):
    """Each array within `tolerance` of the largest entry of what it should be."""
    for name, g, w in zip(names, got, want, strict=True):
        error = np.abs(np.asarray(g, np.float64) - w).max() / np.abs(w).max()
        assert error < tolerance, f"{name} is off by {error:.1e}"


def weights_like(out):
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(z.shape).astype(np.float32) for z in out)


def gradients(run, inputs, reset):
    """Return gradients of a loss on the last state and every output of run(*inputs, reset)."""

    def both(*inputs):
        out, back = jax.vjp(lambda *inputs: run(*inputs, reset), *inputs)
        return back(weights_like(out))

    return quick_jit(both)(*inputs)


def by_steps(step):
    """Scan `step` of a selective state-space model over time, with resets."""

    def run(state, x, delta, a, b, c, reset):
        def body(state, inputs):
            x, delta, b, c, reset = inputs
            state = where_reset(reset, jnp.zeros_like(state), state)
            return step(state, x, delta, a, b, c)

        by_time = jax.tree.map(lambda z: z.swapaxes(0, 1), (x, delta, b, c, reset))
        state, ys = jax.lax.scan(body, state, by_time)
        return state, ys.swapaxes(0, 1)

    return run


def check_differences(reference, run, inputs, reset, tolerance, names):
    """Gradients of `run` against differences of a float64 reference, along random directions."""
    rng = np.random.default_rng(1)
    got = gradients(run, inputs, reset)
    weights = weights_like(reference(*inputs, reset))
    for i, name in enumerate(names):
        direction = rng.standard_normal(inputs[i].shape)

        def loss(step, i=i, direction=direction):
            moved = [np.asarray(z, np.float64) for z in inputs]
            moved[i] = moved[i] + step * direction
            return sum(
                np.sum(w * z) for w, z in zip(weights, reference(*moved, reset), strict=True)
            )

        want = (loss(1e-5) - loss(-1e-5)) / 2e-5
        size = np.linalg.norm(got[i]) * np.linalg.norm(direction)
        error = abs(np.sum(np.asarray(got[i], np.float64) * direction) - want) / size
        assert error < tolerance, f"{name} is off by {error:.1e}"
