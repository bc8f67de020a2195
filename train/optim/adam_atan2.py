"""AdamATan2: Adam with atan2 in place of the division and epsilon, the optimizer of HRM.

    p <- p - rate * ( atan2(m, sqrt(v) / sqrt(1 - b2^t)) / (1 - b1^t) + weight_decay p )

Source: arXiv 2407.05872, in the variant of sapientinc/HRM. The step is invariant to the scale of
the gradients and at most pi/2 rate / (1 - b1^t), so AdamW's learning rates do not transfer.
"""

import jax
import jax.numpy as jnp
import optax


def scale_by_adam_atan2(b1: float, b2: float) -> optax.GradientTransformation:
    """Scale by atan2(m, sqrt(v / (1 - b2^t))) / (1 - b1^t) at step t; float32 moments."""

    def init(params):
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1.0 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1.0 - b2) * g * g, state.nu, grads)
        t = count.astype(jnp.float32)
        first, second = 1.0 - b1**t, 1.0 - b2**t

        def step(m, v):
            return jnp.arctan2(m, jnp.sqrt(v / second)) / first

        return jax.tree.map(step, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
