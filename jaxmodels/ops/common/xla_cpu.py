"""Workarounds for XLA:CPU, which fuses aggressively without a cost model.

None of them changes a value. Their benefit was measured on the training step of `eval.bench`.
"""

import jax
import jax.numpy as jnp


def depend_on(values, with_each):
    """Return the values with a fake dependency on the small array `with_each`.

    Otherwise XLA hoists broadcasts of loop-invariant constants and masks out of a loop, and the
    loop reads the large array from memory on every iteration.
    """
    return jax.lax.optimization_barrier((values, with_each))[0]


def materialize_rows(*vectors: jax.Array) -> list[jax.Array]:
    """Return the vectors, (n,) each, materialized in contiguous memory.

    Inside a scan over layers, XLA:CPU indexes into the stacked parameter array once per element.
    Multiplying by the identity materializes the vectors once.
    """
    table = jnp.stack(vectors * (2 if len(vectors) == 1 else 1))

    def product(table):
        unit = jnp.eye(table.shape[0], dtype=table.dtype)
        return jnp.dot(unit, table, precision=jax.lax.Precision.HIGHEST)

    table = jax.lax.platform_dependent(table, cpu=product, default=lambda table: table)
    return list(table[: len(vectors)])
