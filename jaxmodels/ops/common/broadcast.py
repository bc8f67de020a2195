"""Explicit broadcasting: rank promotion is an error in the tests."""

import jax


def broadcast_to_last_axis(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Give vector (n,) as many axes as x has: (1, ..., 1, n)."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
