"""Chunking of the time axis, and segment masks within a chunk.

Chunked recurrences handle resets by segment ids, the number of documents started since the chunk
began. Tokens interact if their ids are equal, and read the state that enters the chunk if their id
is 0. Masks select and never multiply, because values of another document may be NaN.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxmodels.ops.common.precision import EXACT

BOUNDARY_STATES = "states at chunk boundaries"


def to_chunks(x: jax.Array, chunk_size: int) -> jax.Array:
    """Reshape (batch, time, ...) to (chunks, batch, chunk_size, ...), zero-padded at the end."""
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


def with_neighbour_chunks(x: jax.Array, before: int, after: int) -> jax.Array:
    """Concatenate each chunk of (chunks, batch, c, ...) with its neighbours; zeros at the ends."""
    count = x.shape[0]
    x = jnp.pad(x, [(before, after)] + [(0, 0)] * (x.ndim - 1))
    return jnp.concatenate([x[i : i + count] for i in range(before + 1 + after)], 2)


def segment_ids(reset: jax.Array) -> jax.Array:
    """Count the documents started in the chunk so far: bool (..., c) -> int32 (..., c)."""
    return jnp.cumsum(reset.astype(jnp.int32), -1)


def same_segment(ids: jax.Array, *, strict: bool = False) -> jax.Array:
    """Return bool (..., c, c): row t may read column i <= t (`strict`: i < t); ids int (..., c)."""
    size = ids.shape[-1]
    causal = jnp.tril(jnp.ones((size, size), bool), -1 if strict else 0)
    return (ids[..., :, None] == ids[..., None, :]) & causal.reshape(
        (1,) * (ids.ndim - 1) + causal.shape
    )


def segment_cumsum(x: jax.Array, visible: jax.Array) -> jax.Array:
    """Compute cumulative sums within each segment by one matmul with ones and zeros.

    The rounding of a sum over the whole chunk would depend on values before a reset.

    Args:
      x: float32 (..., c, d).
      visible: bool (..., c, c), `same_segment` of the tokens.

    Returns:
      (..., c, d), sums over the tokens of the segment up to and including each token.
    """
    ones = jnp.broadcast_to(visible, (*x.shape[:-1], visible.shape[-1])).astype(x.dtype)
    return jnp.matmul(ones, x, precision=EXACT)


def masked_exp(exponent: jax.Array, mask: jax.Array) -> jax.Array:
    """Return exp(min(exponent, 0)) where `mask`, else 0; the clamp corrects rounding."""
    return jnp.exp(jnp.where(mask, jnp.minimum(exponent, 0.0), -jnp.inf))


def name_boundary_states(states):
    """Name the states that `recompute_inside` saves."""
    return checkpoint_name(states, BOUNDARY_STATES)


def recompute_inside(function):
    """Apply `jax.checkpoint` but save the states at chunk boundaries: the recurrence runs once."""
    return jax.checkpoint(
        function, policy=jax.checkpoint_policies.save_only_these_names(BOUNDARY_STATES)
    )


def remat_over_time(body, state, inputs, chunk: int, *, time_axis: int):
    """Run `body` over pieces of `chunk` tokens, each rematerialized in the backward pass.

    Only the states between pieces are stored. The program contains the body once, or twice if the
    last piece is shorter.

    Args:
      body: (state, inputs of a piece) -> (state, outputs of a piece).
      state: pytree.
      inputs: pytree of arrays (or None) with time on `time_axis`, all of the same length.
      chunk: tokens per piece.
      time_axis: time axis of inputs and outputs, 0 or 1.

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
