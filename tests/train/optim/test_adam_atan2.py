"""AdamATan2 against float64 NumPy, and what it is for."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.optim.adam_atan2 import scale_by_adam_atan2
from train.optim.weight_decay import add_weight_decay

RATE, B1, B2, DECAY = 0.01, 0.9, 0.95, 0.1


def steps(grads, scale=1.0, start=(1.0, -2.0)):
    optimizer = optax.chain(
        scale_by_adam_atan2(B1, B2),
        add_weight_decay(DECAY, {"w": 1.0, "b": 0.0}),
        optax.scale_by_learning_rate(RATE),
    )
    params = {"w": jnp.asarray(start, jnp.float32), "b": jnp.zeros(2)}
    state = optimizer.init(params)
    for grad in grads:
        grad = {name: jnp.asarray(scale * grad, jnp.float32) for name in params}
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


GRADS = np.random.default_rng(0).standard_normal((5, 2))


def test_adam_atan2_matches_numpy():
    m, v, want = np.zeros(2), np.zeros(2), {"w": np.array([1.0, -2.0]), "b": np.zeros(2)}
    for t, grad in enumerate(GRADS, 1):
        m, v = B1 * m + (1 - B1) * grad, B2 * v + (1 - B2) * grad**2
        step = np.arctan2(m, np.sqrt(v) / np.sqrt(1 - B2**t)) * RATE / (1 - B1**t)
        want = {"w": want["w"] * (1 - RATE * DECAY) - step, "b": want["b"] - step}
    got = steps(GRADS)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", (1e-12, 1e12))
def test_step_is_invariant_to_gradient_scale(scale):
    """Adam's epsilon would swallow the small ones."""
    np.testing.assert_allclose(steps(GRADS, scale)["b"], steps(GRADS)["b"], rtol=1e-5)


def test_zero_gradient_gives_zero_step():
    np.testing.assert_array_equal(steps(np.zeros((3, 2)))["b"], np.zeros(2))
