"""PCA whitening, fitted once on the features of the first epoch (F-05)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.errors import UserError
from jaxmodels.ops.common.precision import EXACT


class Whitening(NamedTuple):
    """A linear map x -> (x - mean) basis.

    Attributes:
      mean: float32 (d,).
      basis: float32 (d, r), the leading principal directions, each over its deviation.
    """

    mean: jax.Array
    basis: jax.Array


def fit_whitening(
    x: jax.Array, size: int | None = None, eps: float = 1e-5, power: float = 1.0
) -> Whitening:
    """Fit a whitening to samples.

    Args:
      x: (n, d) samples, any float dtype; n of at least 4 d gives a usable covariance.
      size: r, principal directions kept, largest variance first; None for d.
      eps: fraction of the mean variance that is added to each variance.
      power: 1 whitens; between 0 and 1, deviations are raised to 1 - power instead of 0.

    Returns:
      The map, in float32.

    Raises:
      UserError: fewer than 2 samples, or samples that are not finite.
    """
    if x.ndim != 2 or len(x) < 2:
        raise UserError(f"whitening is fitted on samples (n, d) with n > 1, got shape {x.shape}")
    x = x.astype(jnp.float32)
    if not jnp.isfinite(x).all():
        raise UserError("whitening: the features hold NaN or Inf; the projection is broken")
    mean = x.mean(0)
    centred = x - jnp.broadcast_to(mean, x.shape)
    covariance = jnp.einsum("ni,nj->ij", centred, centred, precision=EXACT) / len(x)
    variances, directions = jnp.linalg.eigh(covariance)  # ascending
    variances, directions = variances[::-1], directions[:, ::-1]
    floor = eps * variances.sum() / len(variances)
    scale = (jnp.maximum(variances, 0.0) + floor) ** (-0.5 * power)
    basis = directions * jnp.broadcast_to(scale, directions.shape)
    return Whitening(mean, basis[:, : size or x.shape[1]])


def whiten(x: jax.Array, fitted: Whitening) -> jax.Array:
    """Apply a whitening to x (..., d): float32 (..., r)."""
    centred = x.astype(jnp.float32) - jnp.broadcast_to(fitted.mean, x.shape)
    return jnp.einsum("...i,ij->...j", centred, fitted.basis, precision=EXACT)
