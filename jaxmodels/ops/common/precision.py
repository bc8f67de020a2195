"""Matmul precision, because the default on accelerators may be far below float32.

On a TPU, `Precision.DEFAULT` is one bfloat16 pass (8 bits), `HIGH` three (16 bits) and `HIGHEST`
six (float32). An NVIDIA GPU uses TF32 (11 bits) for all but `HIGHEST`. A CPU computes in float32.
"""

import jax
import jax.numpy as jnp

EXACT = jax.lax.Precision.HIGHEST


def precision_of(dtype) -> jax.lax.Precision | None:
    """Return `EXACT` for float32 inputs, None (the default) for narrower dtypes."""
    return EXACT if jnp.dtype(dtype) == jnp.float32 else None
