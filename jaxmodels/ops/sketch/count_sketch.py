"""CountSketch R^D -> R^m (Charikar et al. 2002): signed sums over random buckets (F-03)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError


def places_and_signs(inputs: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a random place for each input, and its sign: int32 (D,), float32 (D,) of -1 and 1.

    The bucket of input i is place[i] % m. Places are a permutation of the D inputs, so that
    all buckets get equally many: any two inputs meet with a probability below 1 / m, and inner
    products stay unbiased.
    """
    if inputs < 1 or size < 1:
        raise UserError(f"a CountSketch needs positive sizes, got {inputs} -> {size}")
    rng = np.random.default_rng((seed, inputs, size))
    signs = rng.integers(0, 2, inputs).astype(np.float32) * 2 - 1
    return rng.permutation(inputs).astype(np.int32), signs


def count_sketch(ids: jax.Array, values: jax.Array, inputs: int, size: int, seed: int) -> jax.Array:
    """Return y_j = sum of sign(i) x_i over the inputs i of bucket j, of sparse vectors x.

    Args:
      ids: int (..., F), positions in [0, D) of the entries; equal ids add up.
      values: (..., F), any float dtype; float16 is summed in float32.
      inputs: D.
      size: m, number of buckets.
      seed: determines buckets and signs.

    Returns:
      float32 (..., m); inner products are preserved in expectation, and the variance of the squared
      norm is at most 2 |x|^4 / m.
    """
    places, signs = places_and_signs(inputs, size, seed)
    bucket = jnp.asarray(places % size)[ids]
    values = values.astype(jnp.float32) * jnp.asarray(signs)[ids]
    lead = ids.shape[:-1]
    bucket, values = bucket.reshape(-1, ids.shape[-1]), values.reshape(-1, ids.shape[-1])
    rows = jnp.broadcast_to(jnp.arange(bucket.shape[0])[:, None], bucket.shape)
    y = jnp.zeros((bucket.shape[0], size), jnp.float32).at[rows, bucket].add(values)
    return y.reshape(*lead, size)
