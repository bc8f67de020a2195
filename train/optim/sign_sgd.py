"""Sign descent on the looked-up rows of an embedding table, as in HRM's puzzle embeddings.

    row <- row (1 - rate * weight_decay) - rate * sign(gradient)      if the row was looked up

Source: the sparse SignSGD of sapientinc/HRM. A row counts as looked up if its gradient is not zero.
"""

import jax
import jax.numpy as jnp
import optax


def sparse_sign_sgd(learning_rate, weight_decay: float) -> optax.GradientTransformation:
    """Return sign descent for parameters (rows, width).

    Args:
      learning_rate: number, or step -> number.
      weight_decay: weight decay of the updated rows.
    """

    def update(grads, params):
        def step(grad, row):
            touched = (grad != 0).any(-1, keepdims=True)
            return jnp.where(touched, jnp.sign(grad) + weight_decay * row, 0.0)

        return jax.tree.map(step, grads, params)

    return optax.chain(optax.stateless(update), optax.scale_by_learning_rate(learning_rate))
