"""Softmax attention under a mask that need not be causal, dense and by blocks of queries.

A mask over T x T positions follows from a few numbers for each position (`Visibility`). By blocks,
neither it nor the scores exist for more than `block_size` queries at a time, nor are they kept for
the gradient, which computes them again (arXiv 2112.05682); under a window, a block reads the keys
around it alone, so that time and memory are linear in T.

Shapes: B batch, T queries, S keys, N heads, D head size, R front positions.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.ops.common.chunks import from_chunks, to_chunks, with_neighbour_chunks
from jaxmodels.ops.common.precision import precision_of


@struct.dataclass
class Visibility:
    """Which keys a query of the same row sees.

    The first R positions see all real keys, and all see them. Another query sees a real key if it
    is not later, or if both are in the prefix; and if it is nearer than `window`.

    Attributes:
      prefix: bool (B, T); all True: attention is bidirectional.
      real: bool (B, T), keys that may be seen.
      front: R.
      window: None = unlimited.
    """

    prefix: jax.Array
    real: jax.Array
    front: int = struct.field(pytree_node=False, default=0)
    window: int | None = struct.field(pytree_node=False, default=None)

    def dense(self) -> jax.Array:
        """Return the mask, bool (B, T queries, T keys)."""
        at = jnp.arange(self.prefix.shape[1])
        return self.between(at, self.prefix, at, self.prefix, self.real)

    def between(self, queries, prefix, keys, key_prefix, real) -> jax.Array:
        """Return bool (B, t, s) of queries at positions int (t,) and keys at int (s,).

        prefix: bool (B, t); key_prefix, real: bool (B, s).
        """
        apart = queries[:, None] - keys[None]
        seen = (prefix[:, :, None] & key_prefix[:, None]) | (apart >= 0)[None]
        if self.window is not None:
            seen = seen & (abs(apart) < self.window)[None]
        front = (queries < self.front)[:, None] | (keys < self.front)[None]
        return (seen | front[None]) & real[:, None]


def in_blocks(time: int, block_size: int) -> bool:
    """Return whether `attend` goes by blocks; not where time is a symbol, as in `jax.export`."""
    return isinstance(time, int) and time > block_size


def attend(q, k, v, visibility: Visibility, *, block_size: int, dtype):
    """Compute `masked_attention` under a `Visibility`, by blocks if T is above `block_size`."""
    time, c = q.shape[1], visibility
    if not in_blocks(time, block_size):
        return masked_attention(q, k, v, c.dense(), dtype)
    front, blocks = c.front, -(-(time - c.front) // block_size)
    before = blocks if c.window is None else -(-(c.window - 1) // block_size)
    if 2 * before + 1 >= blocks:
        return _by_queries(q, k, v, c, block_size, dtype)
    # The queries in front see everything.
    every = jnp.broadcast_to(c.real[:, None], (q.shape[0], front, time))
    first = masked_attention(q[:, :front], k, v, every, dtype)
    keys = {"at": jnp.broadcast_to(jnp.arange(time)[None], c.real.shape)}
    keys |= {"prefix": c.prefix, "real": c.real, "k": k, "v": v}
    around = {
        name: with_neighbour_chunks(to_chunks(x[:, front:], block_size), before, before)
        for name, x in keys.items()
    }
    own = {name: to_chunks(keys[name][:, front:], block_size) for name in ("at", "prefix")}
    own["q"] = to_chunks(q[:, front:], block_size)

    def block(xs):
        own, around = xs
        near = {name: jnp.concatenate([x[:, :front], around[name]], 1) for name, x in keys.items()}
        seen = c.between(own["at"][0], own["prefix"], near["at"][0], near["prefix"], near["real"])
        return masked_attention(own["q"], near["k"], near["v"], seen, dtype)

    rest = jax.lax.map(jax.checkpoint(block, prevent_cse=False), (own, around))
    return jnp.concatenate([first, from_chunks(rest, time - front)], 1)


def _by_queries(q, k, v, visibility, block_size, dtype):
    """Attend with one block of queries after the other, each to all keys."""
    time, c = q.shape[1], visibility
    keys = jnp.arange(time)

    def block(xs):
        start, q, prefix = xs
        queries = start + jnp.arange(block_size)
        seen = c.between(queries, prefix, keys, c.prefix, c.real)
        return masked_attention(q, k, v, seen, dtype)

    starts = jnp.arange(0, time, block_size)
    xs = starts, to_chunks(q, block_size), to_chunks(c.prefix, block_size)
    return from_chunks(jax.lax.map(jax.checkpoint(block, prevent_cse=False), xs), time)


def masked_attention(q, k, v, mask, dtype):
    """Compute softmax attention; queries without any key get zeros.

    Args:
      q: (B, T, N, D); k, v: (B, S, N, D).
      mask: bool (B, T, S).
      dtype: dtype of the two matmuls; the softmax is float32.

    Returns:
      float32 (B, T, N, D).
    """
    q, k, v = (x.astype(dtype) for x in (q * q.shape[-1] ** -0.5, k, v))
    options = {"precision": precision_of(dtype), "preferred_element_type": jnp.float32}
    scores = jnp.einsum("btnd,bsnd->bnts", q, k, **options)
    visible = mask[:, None]
    # Masked before and after the softmax, so that empty rows give neither NaN gradients nor values.
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.where(visible, jax.nn.softmax(scores, -1), 0.0).astype(dtype)
    # 0 times NaN is NaN: values that are not finite are left out, and given to those who see them.
    broken = ~jnp.isfinite(v).all(-1)
    y = jnp.einsum("bnts,bsnd->btnd", weights, jnp.where(broken[..., None], 0.0, v), **options)
    seen = jnp.einsum("bts,bsn->btn", mask.astype(dtype), broken.astype(dtype), **options)
    return jnp.where(seen[..., None] > 0.0, jnp.nan, y)
