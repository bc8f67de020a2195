"""Normalization over the last axis, in float32 for any input dtype."""

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.broadcast import broadcast_to_last_axis
from jaxmodels.ops.common.silu import gated


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Apply LayerNorm to x (..., n), with the population variance; scale, bias (n,)."""
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
    return x * broadcast_to_last_axis(scale, x) + broadcast_to_last_axis(bias, x)


def group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Apply LayerNorm per head: x (..., heads, size) -> (..., heads * size) float32.

    scale, bias: (heads * size,).
    """
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
    x = x.reshape(*x.shape[:-2], -1)
    return x * broadcast_to_last_axis(scale, x) + broadcast_to_last_axis(bias, x)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Divide x (..., n) by its root mean square and multiply by scale (n,)."""
    x = x.astype(jnp.float32)
    return (
        x
        * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
        * broadcast_to_last_axis(scale, x)
    )


def gated_rms_norm(y, z, scale, eps, groups=1):
    """Apply RMSNorm to y silu(z), both (..., D), separately to each of `groups` parts of D."""
    y = gated(y, z).reshape(*z.shape[:-1], groups, -1)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)
    return y.reshape(z.shape) * broadcast_to_last_axis(scale, z)
