"""Workarounds for XLA:CPU, which fuses aggressively without a cost model.

None of them changes a value. What they are worth was measured on the training step of `eval.bench`.
"""

import jax
import jax.numpy as jnp


def depend_on(values, with_each):
    """Return the values as if they changed whenever the small array `with_each` does.

    Otherwise XLA hoists what does not change out of a loop: a constant or a mask becomes an array
    as large as those it meets inside, and the loop reads it from memory on every iteration.
    """
    return jax.lax.optimization_barrier((values, with_each))[0]


def materialize_rows(*vectors: jax.Array) -> list[jax.Array]:
    """Return the vectors, (n,) each, in memory of their own.

    Inside a scan over layers, XLA:CPU indexes into the stacked parameter array once per element.
    Multiplying by the identity materialises the vectors once.
    """
    table = jnp.stack(vectors * (2 if len(vectors) == 1 else 1))

    def product(table):
        unit = jnp.eye(table.shape[0], dtype=table.dtype)
        return jnp.dot(unit, table, precision=jax.lax.Precision.HIGHEST)

    table = jax.lax.platform_dependent(table, cpu=product, default=lambda table: table)
    return list(table[: len(vectors)])
