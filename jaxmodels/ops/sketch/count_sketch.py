"""CountSketch R^D -> R^m (Charikar et al. 2002): signed sums over random buckets (F-03)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError


def places_and_signs(inputs: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a random place for each input, and its sign: int32 (D,), float32 (D,) of -1 and 1.

    The bucket of input i is place[i] % m. Places are a permutation of the D inputs, so that
    all buckets get equally many: any two inputs meet with a probability below 1 / m, inner products
    stay unbiased, and a sum by reshaping replaces a scatter.
    """
    if inputs < 1 or size < 1:
        raise UserError(f"a CountSketch needs positive sizes, got {inputs} -> {size}")
    rng = np.random.default_rng((seed, inputs, size))
    signs = rng.integers(0, 2, inputs).astype(np.float32) * 2 - 1
    return rng.permutation(inputs).astype(np.int32), signs


def count_sketch(x: jax.Array, size: int, seed: int) -> jax.Array:
    """Return y_j = sum of sign(i) x_i over the inputs i of bucket j.

    Args:
      x: (..., D), any float dtype; float16 is summed in float32.
      size: m, number of buckets.
      seed: determines buckets and signs.

    Returns:
      float32 (..., m); inner products are preserved in expectation, and the variance of the squared
      norm is at most 2 |x|^4 / m.
    """
    inputs = x.shape[-1]
    places, signs = places_and_signs(inputs, size, seed)
    order = np.argsort(places)  # inputs by place
    y = x.astype(jnp.float32)[..., order] * jnp.broadcast_to(signs[order], x.shape)
    pad = -inputs % size
    y = jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, pad)])
    return y.reshape(*x.shape[:-1], -1, size).sum(-2)


def count_sketch_sparse(
    ids: jax.Array, values: jax.Array, inputs: int, size: int, seed: int
) -> jax.Array:
    """Sketch vectors given by their non-zero entries; equal to `count_sketch` of the dense ones.

    Args:
      ids: int (..., F), positions in [0, D) of the entries; equal ids add up.
      values: (..., F).
      inputs: D.
      size, seed: see `count_sketch`.

    Returns:
      float32 (..., m).
    """
    places, signs = places_and_signs(inputs, size, seed)
    bucket = jnp.asarray(places % size)[ids]
    values = values.astype(jnp.float32) * jnp.asarray(signs)[ids]
    lead = ids.shape[:-1]
    bucket, values = bucket.reshape(-1, ids.shape[-1]), values.reshape(-1, ids.shape[-1])
    rows = jnp.broadcast_to(jnp.arange(len(bucket))[:, None], bucket.shape)
    y = jnp.zeros((len(bucket), size), jnp.float32).at[rows, bucket].add(values)
    return y.reshape(*lead, size)
