"""Time cut into chunks, and which tokens of a chunk belong together.

Every chunked recurrence here treats a reset in the same way: tokens of a chunk carry a segment id,
the number of documents that started since the chunk did. Two tokens may see each other if their ids
agree, and a token sees the state that entered the chunk if its id is 0. Always by selection, never
by multiplication: what another document left behind may be NaN.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxmodels.ops.common.precision import EXACT

BOUNDARY_STATES = "states at chunk boundaries"


def to_chunks(x: jax.Array, chunk_size: int) -> jax.Array:
    """(batch, time, ...) -> (chunks, batch, chunk_size, ...), the end padded with zeros (False)."""
    batch, time = x.shape[:2]
    count = -(-time // chunk_size)
    padding = [(0, 0), (0, count * chunk_size - time)] + [(0, 0)] * (x.ndim - 2)
    if count * chunk_size != time:
        x = jnp.pad(x, padding)
    return x.reshape(batch, count, chunk_size, *x.shape[2:]).swapaxes(0, 1)


def from_chunks(x: jax.Array, time: int) -> jax.Array:
    """Invert `to_chunks`: (chunks, batch, chunk_size, ...) -> (batch, time, ...)."""
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
    """Sum cumulatively within each segment, by one matmul with ones and zeros.

    Taken over the whole chunk, the sum would round differently with what stood before a reset.

    Args:
      x: float32 (..., c, d).
      visible: bool (..., c, c), `same_segment` of the tokens.

    Returns:
      (..., c, d): the sum over the tokens of the segment up to and with each token.
    """
    ones = jnp.broadcast_to(visible, (*x.shape[:-1], visible.shape[-1])).astype(x.dtype)
    return jnp.matmul(ones, x, precision=EXACT)


def masked_exp(exponent: jax.Array, mask: jax.Array) -> jax.Array:
    """exp of a decay's logarithm where `mask`, else 0; rounding must not make it positive."""
    return jnp.exp(jnp.where(mask, jnp.minimum(exponent, 0.0), -jnp.inf))


def name_boundary_states(states):
    """Mark the states that `recompute_inside` keeps."""
    return checkpoint_name(states, BOUNDARY_STATES)


def recompute_inside(function):
    """`jax.checkpoint`, but the states at chunk boundaries are kept: the recurrence runs once."""
    return jax.checkpoint(
        function, policy=jax.checkpoint_policies.save_only_these_names(BOUNDARY_STATES)
    )


def remat_over_time(body, state, inputs, chunk: int, *, time_axis: int):
    """`body` over pieces of `chunk` tokens, each computed again for the backward pass.

    The backward pass then keeps the state once a piece, and what one piece needs. The program holds
    the body once, and a second time if the last piece is shorter.

    Args:
      body: (state, inputs of a piece) -> (state, outputs of a piece).
      state: pytree.
      inputs: pytree of arrays (or None) with time on `time_axis`, the same length in all.
      chunk: tokens a piece.
      time_axis: of the arrays in inputs and outputs, 0 or 1.

    Returns:
      (state, outputs), as `body(state, inputs)` would.
    """
    body = jax.checkpoint(body)
    time = jax.tree.leaves(inputs)[0].shape[time_axis]
    count = time // chunk
    if time <= chunk:
        return body(state, inputs)

    def part(x, start, stop):
        return jax.lax.slice_in_dim(x, start, stop, axis=time_axis)

    def split(x):
        x = part(x, 0, count * chunk)
        shape = (*x.shape[:time_axis], count, chunk, *x.shape[time_axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), time_axis, 0)

    def join(x):
        x = jnp.moveaxis(x, 0, time_axis)
        return x.reshape(*x.shape[:time_axis], -1, *x.shape[time_axis + 2 :])

    state, outputs = jax.lax.scan(body, state, jax.tree.map(split, inputs))
    outputs = jax.tree.map(join, outputs)
    if count * chunk < time:
        rest = jax.tree.map(lambda x: part(x, count * chunk, time), inputs)
        state, tail = body(state, rest)
        outputs = jax.tree.map(lambda *parts: jnp.concatenate(parts, time_axis), outputs, tail)
    return state, outputs
