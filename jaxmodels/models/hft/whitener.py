"""Whitening of a model's features, learned from its first batches (F-05).

For `whiten_after` batches nothing is learned but mean and covariance of the features. Then they are
whitened, and the field is seeded and learns, so that no tensor's place has to be carried over.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.models.hft.config import HFTConfig
from jaxmodels.ops.common.precision import EXACT
from jaxmodels.ops.sketch import Whitening, fit_whitening, whiten


@struct.dataclass
class Whitener:
    """A whitening, or the sums that it will be fitted to.

    Attributes:
      mean: float16 (d,) and basis: float16 (d, r), 0 and (r columns of) the identity until they
        are fitted.
      weight: float32 scalar; total: float32 (d,); products: float32 (d, d), sums over contexts,
        which float16 cannot hold; all 0 from then on.
      batches: int32 scalar, batches summed.
    """

    mean: jax.Array
    basis: jax.Array
    weight: jax.Array
    total: jax.Array
    products: jax.Array
    batches: jax.Array


def empty_whitener(size: int, kept: int) -> Whitener:
    """Return a whitener of `size` features that keeps `kept` directions and has seen nothing."""
    return Whitener(
        mean=jnp.zeros((size,), jnp.float16),
        basis=jnp.eye(size, kept, dtype=jnp.float16),
        weight=jnp.float32(0.0),
        total=jnp.zeros((size,)),
        products=jnp.zeros((size, size)),
        batches=jnp.int32(0),
    )


def whitened(whitener: Whitener, x: jax.Array) -> jax.Array:
    """Return features (..., d) as (..., r): until the whitening is fitted, the first as they are.

    Then along the r directions of largest variance, of mean square norm 1.
    """
    return whiten(x, Whitening(whitener.mean, whitener.basis))


def gathered(
    config: HFTConfig, whitener: Whitener, x: jax.Array, weights: jax.Array, axis_name: str
) -> Whitener:
    """Return the whitener after a batch: with its sums, or, after the last of them, fitted.

    Args:
      config: settings.
      whitener: equal on all devices.
      x: float32 (n, d), this device's features.
      weights: float32 (n,), 0 for padding.
      axis_name: axis of the devices.
    """
    w, last = whitener, config.whiten_after - 1
    rows = weights[:, None]
    products = jnp.einsum("ni,nj->ij", rows * x, x, precision=EXACT)
    sums = jax.lax.psum((weights.sum(), (rows * x).sum(0), products), axis_name)
    old = (w.weight, w.total, w.products)
    weight, total, products = jax.tree.map(jnp.add, old, sums)

    def fit():
        mean = total / weight
        covariance = products / weight - mean[:, None] * mean[None]
        fitted = fit_whitening(mean, covariance, config.features, power=config.whiten_power)
        # Of whitened features the mean square norm is the trace of their covariance.
        spread = jnp.einsum(
            "ir,ij,jr->", fitted.basis, covariance, fitted.basis, precision=EXACT, optimize=True
        )
        basis = fitted.basis * jax.lax.rsqrt(spread)
        zeros = (jnp.zeros_like(part) for part in (weight, total, products))
        return Whitener(mean.astype(jnp.float16), basis.astype(jnp.float16), *zeros, w.batches + 1)

    def add():
        return Whitener(w.mean, w.basis, weight, total, products, w.batches + 1)

    return jax.lax.cond(
        w.batches > last, lambda: w, lambda: jax.lax.cond(w.batches == last, fit, add)
    )
