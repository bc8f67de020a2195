"""What a matmul asks of the hardware, whose default may be far less than float32.

A TPU multiplies bfloat16: `Precision.DEFAULT` is one pass, 8 bits, `HIGH` three, 16 bits, and
`HIGHEST` six, float32. An NVIDIA GPU takes TF32, 11 bits, for all but `HIGHEST`. A CPU computes in
float32 always.
"""

import jax
import jax.numpy as jnp

EXACT = jax.lax.Precision.HIGHEST


def precision_of(dtype) -> jax.lax.Precision | None:
    """For inputs of `dtype`: float32 means float32; narrower types are multiplied as they are."""
    return EXACT if jnp.dtype(dtype) == jnp.float32 else None
