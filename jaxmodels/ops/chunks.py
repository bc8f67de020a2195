"""Time cut into chunks, and which tokens of a chunk belong together.

Every chunked recurrence here treats a reset in the same way: tokens of a chunk carry a segment id,
the number of documents that started since the chunk did. Two tokens may see each other if their ids
agree, and a token sees the state that entered the chunk if its id is 0. Always by selection, never
by multiplication: what another document left behind may be NaN.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

BORDERS = "states at chunk borders"


def to_chunks(x: jax.Array, chunk_size: int) -> jax.Array:
    """(batch, time, ...) -> (chunks, batch, chunk_size, ...), the end padded with zeros (False)."""
    batch, time = x.shape[:2]
    count = -(-time // chunk_size)
    padding = [(0, 0), (0, count * chunk_size - time)] + [(0, 0)] * (x.ndim - 2)
    if count * chunk_size != time:
        x = jnp.pad(x, padding)
    return x.reshape(batch, count, chunk_size, *x.shape[2:]).swapaxes(0, 1)


def from_chunks(x: jax.Array, time: int) -> jax.Array:
    """The inverse: (chunks, batch, chunk_size, ...) -> (batch, time, ...)."""
    chunks, batch, chunk_size = x.shape[:3]
    return x.swapaxes(0, 1).reshape(batch, chunks * chunk_size, *x.shape[3:])[:, :time]


def segment_ids(reset: jax.Array) -> jax.Array:
    """bool (..., chunk_size) -> int32 of that shape: documents started in the chunk so far."""
    return jnp.cumsum(reset.astype(jnp.int32), -1)


def same_segment(ids: jax.Array, *, strict: bool = False) -> jax.Array:
    """int (..., c) -> bool (..., c, c): row t may read column i. `strict`: i < t, else i <= t."""
    size = ids.shape[-1]
    causal = jnp.tril(jnp.ones((size, size), bool), -1 if strict else 0)
    return (ids[..., :, None] == ids[..., None, :]) & causal.reshape(
        (1,) * (ids.ndim - 1) + causal.shape
    )


def segment_cumsum(x: jax.Array, visible: jax.Array) -> jax.Array:
    """Cumulative sum within each segment, as one product with ones and zeros.

    Taken over the whole chunk, the sum would round differently with what stood before a reset.

    Args:
      x: float32 (..., c, d).
      visible: bool (..., c, c), `same_segment` of the tokens.

    Returns:
      (..., c, d): the sum over the tokens of the segment up to and with each token.
    """
    ones = jnp.broadcast_to(visible, (*x.shape[:-1], visible.shape[-1])).astype(x.dtype)
    return jnp.matmul(ones, x, precision=jax.lax.Precision.HIGHEST)


def name_borders(states):
    """Marks what `recompute_inside` is to keep."""
    return checkpoint_name(states, BORDERS)


def recompute_inside(function):
    """`jax.checkpoint`, but the states at chunk borders are kept: the recurrence runs once."""
    return jax.checkpoint(function, policy=jax.checkpoint_policies.save_only_these_names(BORDERS))
