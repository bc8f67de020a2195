"""Lukasiewicz logic on bounds of truth, as in Logical Neural Networks (arXiv 2006.13155).

A proposition has a lower and an upper bound in [0, 1]: [0, 1] is unknown, [1, 1] true, [0, 0]
false; a lower bound above the upper one is a contradiction. A connective is monotone, and is
applied to each bound.
"""

import jax
import jax.numpy as jnp


def conjunction(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the truth of "a and b", max(0, a + b - 1)."""
    return jnp.maximum(a + b - 1.0, 0.0)


def disjunction(truths: jax.Array) -> jax.Array:
    """Return the truth of "one of them at least", min(1, sum), over the last axis."""
    return jnp.minimum(jnp.sum(truths, -1), 1.0)


def contradiction(lower: jax.Array, upper: jax.Array) -> jax.Array:
    """Return by how much the bounds cross, max(0, lower - upper)."""
    return jnp.maximum(lower - upper, 0.0)


def both_of_any_two(lower: jax.Array) -> jax.Array:
    """Return the truth that any two of the last axis's propositions hold both, (..., n) -> (...).

    The conjunction of the two largest lower bounds: of any other two it is no larger.
    """
    largest = jax.lax.top_k(lower, 2)[0]
    return conjunction(largest[..., 0], largest[..., 1])
