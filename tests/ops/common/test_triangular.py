"""`unit_lower_inverse` against NumPy's inverse in float64, and its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.common.triangular import unit_lower_inverse
from jaxmodels.testing.lab import quick_jit

# Float32 keeps 6e-8; some hundred additions to an entry.
ROUNDING = 3e-6
inverse = quick_jit(unit_lower_inverse)


def error(strict):
    """Largest error relative to the largest entry, for the float32 matrix that is read."""
    strict = np.asarray(strict, np.float32)
    got = np.asarray(inverse(strict), np.float64)
    assert (got[..., *np.triu_indices(strict.shape[-1], 1)] == 0.0).all()
    want = np.linalg.inv(np.eye(strict.shape[-1]) - strict.astype(np.float64))
    return np.abs(got - want).max() / np.abs(want).max()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64])
def test_equals_numpy_inverse(size):
    rng = np.random.default_rng(size)
    lower = np.tril(np.ones((size, size)), -1)
    keys = rng.standard_normal((2, 3, size, 8))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    assert error(-lower * (keys @ keys.swapaxes(-1, -2))) < ROUNDING
    assert error(0.3 * lower * rng.standard_normal((2, 3, size, size))) < ROUNDING


@pytest.mark.parametrize("rate", [1.0, 0.97, 0.9, 0.7])
def test_equal_keys(rate):
    """A stream of equal tokens: powers of this matrix have entries in the thousands and cancel."""
    rng = np.random.default_rng(0)
    noise = 1.0 + 0.01 * rng.standard_normal((64, 64))
    assert error(-rate * np.tril(noise, -1)) < ROUNDING


def test_derivative_equals_finite_differences():
    rng = np.random.default_rng(0)
    size, step = 20, 1e-5
    strict, change = np.tril(0.5 * rng.standard_normal((2, size, size)), -1)
    weights = rng.standard_normal((size, size))

    def value(scale):
        return np.sum(weights * np.linalg.inv(np.eye(size) - strict - scale * change))

    want = (value(step) - value(-step)) / (2.0 * step)
    loss = lambda strict: jnp.sum(weights * unit_lower_inverse(strict))  # noqa: E731
    forward = jax.jvp(loss, (jnp.float32(strict),), (jnp.float32(change),))[1]
    backward = np.sum(change * np.asarray(jax.grad(loss)(jnp.float32(strict)), np.float64))
    assert abs(forward - want) < 1e-4 * abs(want)
    assert abs(backward - want) < 1e-4 * abs(want)
