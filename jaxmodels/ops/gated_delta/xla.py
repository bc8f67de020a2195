"""Gated delta rule between its projections, in XLA."""

import jax
import jax.numpy as jnp

from jaxmodels.ops.gated_delta.chunked import gated_delta_chunked
from jaxmodels.ops.norms import rms_norm


def unit(x):
    """Normalize x along the last axis; epsilon inside the square root, as in the source."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)


def mix(state, tokens, gates, norm_scale, reset, chunk_size):
    """See `gated_delta_mixer`."""
    heads, size = state.shape[1:3]
    q, k, v, z = (x.reshape(*x.shape[:2], heads, -1) for x in tokens)
    inputs = unit(q) * size**-0.5, unit(k), v, *gates
    memory, y = gated_delta_chunked(state, *inputs, reset, chunk_size=chunk_size)
    y = rms_norm(y, norm_scale) * jax.nn.silu(z)
    return memory, y.reshape(tokens[3].shape)
