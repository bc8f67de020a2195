"""PCA whitening, fitted once on the features of the first epoch (F-05)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.precision import EXACT


class Whitening(NamedTuple):
    """A linear map x -> (x - mean) basis.

    Attributes:
      mean: float (d,).
      basis: float (d, r), the leading principal directions, each over its deviation.
    """

    mean: jax.Array
    basis: jax.Array


def fit_whitening(
    mean: jax.Array,
    covariance: jax.Array,
    size: int | None = None,
    eps: float = 1e-5,
    power: float = 1.0,
) -> Whitening:
    """Return the whitening of a distribution; 4 d samples or more give a usable covariance.

    Args:
      mean: float32 (d,).
      covariance: float32 (d, d).
      size: r, principal directions kept, largest variance first; None for d.
      eps: fraction of the mean variance that is added to each variance.
      power: 1 whitens; between 0 and 1, deviations are raised to 1 - power instead of 0.
    """
    variances, directions = jnp.linalg.eigh(covariance)  # ascending
    variances, directions = variances[::-1], directions[:, ::-1]
    floor = eps * variances.sum() / len(variances)
    scale = (jnp.maximum(variances, 0.0) + floor) ** (-0.5 * power)
    basis = directions * jnp.broadcast_to(scale, directions.shape)
    return Whitening(mean, basis[:, : size or len(mean)])


def whiten(x: jax.Array, fitted: Whitening) -> jax.Array:
    """Apply a whitening to x (..., d): float32 (..., r)."""
    mean, basis = (leaf.astype(jnp.float32) for leaf in fitted)
    centred = x.astype(jnp.float32) - jnp.broadcast_to(mean, x.shape)
    return jnp.einsum("...i,ij->...j", centred, basis, precision=EXACT)
