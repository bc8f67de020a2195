"""Causal sliding-window softmax attention: token by token and in blocks.

Keys and values are stored in ring buffers: token p of a document (from 0) is in slot p mod W, so
the number of tokens read determines the age of every slot. Rotary positions: arXiv 2104.09864;
blockwise softmax: arXiv 2205.14135 (FlashAttention).

Shapes: B batch, T time, W window, K key and value heads, G query heads for each, N head size,
c block size, n blocks. Scores, softmax and sums are float32; the two matmuls take their inputs
in `dtype`.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.chunks import from_chunks, to_chunks, with_neighbour_chunks
from jaxmodels.ops.common.precision import precision_of


def rotate(x: jax.Array, position: jax.Array, base: float) -> jax.Array:
    """Rotate the pairs (i, i + N / 2) of x (..., heads, N) by position (...) base^(-2 i / N).

    Angles are float32, with an error of about p 2^-24 at position p.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position.astype(jnp.float32)[..., None, None] * frequency.reshape(
        (1,) * (x.ndim - 1) + (half,)
    )
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def token_positions(read: jax.Array, reset: jax.Array) -> jax.Array:
    """Return each token's position in its document, int (B, T).

    read: int (B,), tokens of the document before the first; reset: bool (B, T).
    """
    now = jnp.arange(reset.shape[1])[None]
    start = jax.lax.cummax(jnp.where(reset, now, -read[:, None]), axis=1)
    return now - start


def ring_ages(read: jax.Array, window: int) -> jax.Array:
    """Return the age of each slot in tokens, int (B, W); slots of age >= read (B,) are empty."""
    return (read[:, None] - 1 - jnp.arange(window)[None]) % window


def ring_read(ring: jax.Array, read: jax.Array) -> jax.Array:
    """Return the ring (B, W, K, N) with zeros in its empty slots, even where they contain NaN."""
    full = ring_ages(read, ring.shape[1]) < read[:, None]
    return jnp.where(full[..., None, None], ring, 0.0)


def ring_write(
    ring: jax.Array, new: jax.Array, read: jax.Array, restarted: jax.Array, lengths=None
):
    """Return the ring after tokens `new` (B, T, K, N).

    Args:
      ring: (B, W, K, N).
      new: (B, T, K, N).
      read: int (B,), tokens of the document including the new ones.
      restarted: bool (B,); the ring is of another document and is cleared first.
      lengths: int (B,) or None; the tokens of `new` after these are padding.
    """
    window, time = ring.shape[1], new.shape[1]
    count = time
    if lengths is not None:
        count, new = lengths, _roll_rows(new, time - lengths)  # the padding to the front
    age = ring_ages(read, window)
    is_new = age < jnp.minimum(read, count)[:, None]
    if time < window:
        new = jnp.pad(new, ((0, 0), (window - time, 0), (0, 0), (0, 0)))
    new = _roll_rows(new[:, -window:], read % window)
    ring = jnp.where(restarted.reshape(-1, 1, 1, 1), 0.0, ring)
    return jnp.where(is_new[..., None, None], new, ring)


def _roll_rows(x, shifts):
    """Roll each row of x (B, T, ...) by its shift, int (B,)."""
    return jax.vmap(functools.partial(jnp.roll, axis=0))(x, shifts)


def ring_put(ring: jax.Array, new: jax.Array, read: jax.Array) -> jax.Array:
    """Write one token `new` (B, K, N); for `read`, see `ring_write`."""
    return ring.at[jnp.arange(ring.shape[0]), (read - 1) % ring.shape[1]].set(new)


def attention_step(q, k, v, read, dtype):
    """Attend with one query per head, q (B, K, G, N) -> (B, K, G, N).

    k, v (B, W, K, N) are the rings and read (B,) the count, both including the current token.
    """
    visible = ring_ages(read, k.shape[1]) < read[:, None]
    k, v = (_heads_first(ring_read(ring, read)) for ring in (k, v))
    _, total, out = _part(q[:, :, :, None], k, v, visible[:, None], dtype)
    return (out / total[..., None])[:, :, :, 0]


def attention_blocks(q, k, v, old_k, old_v, read, reset, prefix=None, *, block_size, dtype):
    """Attend with T tokens, by blocks of queries and the key blocks within their window.

    Args:
      q: (B, T, K, G, N), rotated.
      k, v: (B, T, K, N), k rotated.
      old_k, old_v: (B, W, K, N), the rings before the first token.
      read: int (B,), tokens of the document before the first.
      reset: bool (B, T).
      prefix: bool (B, T) or None; where True, attention within a document and the window is
        bidirectional. It does not extend beyond these T tokens.
      block_size: tokens per block; cost and memory per token grow with window + block_size.
      dtype: input dtype of both matmuls.

    Returns:
      (B, T, K, G, N).
    """
    window, time = old_k.shape[1], q.shape[1]
    size = min(block_size, time)
    blocks = -(-time // size)
    before = min(-(-(window - 1) // size), blocks - 1)
    after = before if prefix is not None else 0
    old_k, old_v = (_heads_first(ring_read(ring, read)) for ring in (old_k, old_v))
    age = ring_ages(read, window)[:, None]  # (B, 1, W)
    query = jnp.arange(size)[:, None]
    distance = query + (before * size - jnp.arange((before + 1 + after) * size))[None]
    distance = distance[None]  # (1, c, keys of the blocks around)
    # Document ids start at 1, so that the padding, 0, belongs to none.
    ids = to_chunks(1 + jnp.cumsum(reset.astype(jnp.int32), 1), size)
    xs = {
        "q": jnp.moveaxis(to_chunks(q, size), 2, 4),  # (n, B, K, G, c, N)
        "ids": ids,
        "start": size * jnp.arange(blocks),
        "k": _heads_first(with_neighbour_chunks(to_chunks(k, size), before, after)),
        "v": _heads_first(with_neighbour_chunks(to_chunks(v, size), before, after)),
        "k_ids": with_neighbour_chunks(ids, before, after),
    }
    if prefix is not None:
        xs["prefix"] = to_chunks(prefix, size)
        xs["k_prefix"] = with_neighbour_chunks(xs["prefix"], before, after)

    def block(x):
        same = x["ids"][:, :, None] == x["k_ids"][:, None]
        causal = distance >= 0
        if prefix is not None:
            causal = causal | (x["prefix"][:, :, None] & x["k_prefix"][:, None])
        near = _part(x["q"], x["k"], x["v"], same & causal & (abs(distance) < window), dtype)
        first = x["ids"] == 1  # the document in the rings
        since = x["start"] + 1 + query[None] + age  # (B, c, W)
        visible = first[..., None] & (age < read[:, None, None]) & (since < window)
        none = (jnp.full_like(near[0], -jnp.inf), *map(jnp.zeros_like, near[1:]))
        far = jax.lax.cond(
            visible.any(), lambda: _part(x["q"], old_k, old_v, visible, dtype), lambda: none
        )
        # Selected, because another document's entries in the rings may be NaN.
        far = (far[0], far[1], jnp.where(first[:, None, None, :, None], far[2], 0.0))
        return _join(near, far)

    # One block keeps its scores for the backward pass; several blocks recompute them.
    if blocks > 1:
        out = jax.lax.map(jax.checkpoint(block), xs)  # (n, B, K, G, c, N)
    else:
        out = block(jax.tree.map(lambda x: x[0], xs))[None]
    return from_chunks(jnp.moveaxis(out, 4, 2), time)


def _heads_first(x):
    """Move heads first, (..., s, K, N) -> (..., K, s, N), the fast layout of batched matmuls."""
    return jnp.moveaxis(x, -3, -2)


def _part(q, k, v, visible, dtype):
    """Compute an unnormalized softmax over some of the keys.

    q (B, K, G, t, N); k, v (B, K, s, N); visible bool (B, t, s) -> maximum score (B, K, G, t), -inf
    if no key is visible; sum of exp(score - maximum) (B, K, G, t); weighted values (B, K, G, t, N).
    """
    options = {"precision": precision_of(dtype), "preferred_element_type": jnp.float32}
    product = functools.partial(jnp.einsum, **options)
    q = (q * q.shape[-1] ** -0.5).astype(dtype)
    groups = q.shape[2:4]
    q = q.reshape(*q.shape[:2], -1, q.shape[-1])
    scores = product("bkqn,bksn->bkqs", q, k.astype(dtype))
    scores = scores.reshape(*q.shape[:2], *groups, -1)
    scores = jnp.where(visible[:, None, None], scores, -jnp.inf)
    largest = jax.lax.stop_gradient(scores.max(-1))
    weights = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0.0, largest)[..., None])
    flat = weights.reshape(*q.shape[:3], -1)
    out = product("bkqs,bksn->bkqn", flat.astype(dtype), v.astype(dtype))
    return largest, weights.sum(-1), out.reshape(*q.shape[:2], *groups, -1)


def _join(*parts):
    """Combine parts of a softmax and normalize -> (B, K, G, t, N)."""
    largest = functools.reduce(jnp.maximum, [part[0] for part in parts])
    scales = [jnp.exp(part[0] - largest) for part in parts]
    total = sum(scale * part[1] for scale, part in zip(scales, parts, strict=True))
    out = sum(scale[..., None] * part[2] for scale, part in zip(scales, parts, strict=True))
    return out / total[..., None]
