"""Hints for XLA's CPU compiler, which makes one loop of many operations without asking the price.

None of them changes a value. What they are worth was measured on the training step of `eval.bench`.
"""

import jax
import jax.numpy as jnp

from jaxmodels.ops.precision import EXACT


def renewed(values, with_each):
    """The values, as if they changed whenever the small array `with_each` does.

    What does not change is taken out of a loop: a constant or a mask becomes an array as large as
    those it meets inside, which the loop then reads from memory at every turn.
    """
    return jax.lax.optimization_barrier((values, with_each))[0]


def rows(*vectors: jax.Array) -> list[jax.Array]:
    """The vectors, (n,) each, in memory of their own.

    In a loop over layers, a vector of parameters is a place in an array of all layers, looked up
    for every element that it is multiplied with, one by one. A product with the identity is not.
    """
    table = jnp.stack(vectors * (2 if len(vectors) == 1 else 1))

    def product(table):
        unit = jnp.eye(table.shape[0], dtype=table.dtype)
        return jnp.dot(unit, table, precision=EXACT)

    table = jax.lax.platform_dependent(table, cpu=product, default=lambda table: table)
    return list(table[: len(vectors)])
