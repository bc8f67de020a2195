"""RWKV-6 between its projections, in XLA."""

import jax

from jaxmodels.ops.norms import group_norm
from jaxmodels.ops.wkv6.chunked import wkv6_chunked

EPSILON = 64e-5  # of the norm


def mix(state, tokens, vectors, reset, norm_groups, chunk_size):
    """See `wkv6_mixer`."""
    *tokens, z = tokens
    r, log_w, k, v = (x.reshape(*x.shape[:2], state.shape[1], -1) for x in tokens)
    inputs = state, r, log_w, k, v, vectors.bonus, reset
    state, y = wkv6_chunked(*inputs, chunk_size=chunk_size)
    return state, read(y, z, vectors, norm_groups)


def read(y, z, vectors, norm_groups):
    """Normalize y (..., H, V) in `norm_groups` parts, and multiply it by silu of z (..., H V)."""
    y = y.reshape(*z.shape[:-1], norm_groups, -1)
    return group_norm(y, vectors.norm_scale, vectors.norm_bias, EPSILON) * jax.nn.silu(z)
