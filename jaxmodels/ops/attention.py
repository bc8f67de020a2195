"""Causal softmax attention over a window of tokens: token by token and in blocks.

The window is a ring buffer of keys and values: the token that is number p of its document (from 0)
stands in slot p mod W. Which slots hold something, and how old it is, follows from the number of
tokens read alone. Rotary positions: arXiv 2104.09864; parts of a softmax joined by their maxima:
arXiv 2205.14135 (FlashAttention).

Shapes: B batch, T time, W window, K key and value heads, G query heads for each, N head size,
c block size, n blocks. Scores, softmax and sums in float32; the two products take their inputs
in `dtype`.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.chunks import from_chunks, to_chunks
from jaxmodels.ops.common.precision import precision_of


def rotate(x: jax.Array, position: jax.Array, base: float) -> jax.Array:
    """Rotate the pairs (i, i + N / 2) of x (..., heads, N) by position (...) base^(-2 i / N).

    Angles are float32: at position p they are off by some p 2^-24.
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
    """read int (B,), tokens of the document so far; reset bool (B, T) -> int (B, T), from 0 on."""
    now = jnp.arange(reset.shape[1])[None]
    start = jax.lax.cummax(jnp.where(reset, now, -read[:, None]), axis=1)
    return now - start


def ring_ages(read: jax.Array, window: int) -> jax.Array:
    """int (B,) -> int (B, W): tokens read since each slot's; it is empty if >= read."""
    return (read[:, None] - 1 - jnp.arange(window)[None]) % window


def ring_read(ring: jax.Array, read: jax.Array) -> jax.Array:
    """Return the ring (B, W, K, N), zeros in its empty slots, even where they hold NaN."""
    full = ring_ages(read, ring.shape[1]) < read[:, None]
    return jnp.where(full[..., None, None], ring, 0.0)


def ring_write(ring: jax.Array, new: jax.Array, read: jax.Array, restarted: jax.Array):
    """Return the ring after tokens `new` (B, T, K, N).

    Args:
      ring: (B, W, K, N).
      new: (B, T, K, N).
      read: int (B,), tokens of the document by then.
      restarted: bool (B,); the ring before is of another document, and all zeros instead.
    """
    window, time = ring.shape[1], new.shape[1]
    age = ring_ages(read, window)
    is_new = age < jnp.minimum(read, time)[:, None]
    if time < window:
        new = jnp.pad(new, ((0, 0), (window - time, 0), (0, 0), (0, 0)))
    new = jax.vmap(functools.partial(jnp.roll, axis=0))(new[:, -window:], read % window)
    ring = jnp.where(restarted.reshape(-1, 1, 1, 1), 0.0, ring)
    return jnp.where(is_new[..., None, None], new, ring)


def ring_put(ring: jax.Array, new: jax.Array, read: jax.Array) -> jax.Array:
    """Write one token `new` (B, K, N), the only slot that changes; read: see `ring_write`."""
    return ring.at[jnp.arange(ring.shape[0]), (read - 1) % ring.shape[1]].set(new)


def attention_step(q, k, v, read, dtype):
    """Read one token. q (B, K, G, N); k, v (B, W, K, N), rings with the token; read (B,) with it.

    Returns:
      (B, K, G, N).
    """
    seen = ring_ages(read, k.shape[1]) < read[:, None]
    k, v = (_heads_first(ring_read(ring, read)) for ring in (k, v))
    _, total, out = _part(q[:, :, :, None], k, v, seen[:, None], dtype)
    return (out / total[..., None])[:, :, :, 0]


def attention_blocks(q, k, v, old_k, old_v, read, reset, prefix=None, *, block_size, dtype):
    """Read T tokens, by blocks of queries that see the blocks of keys within the window.

    Args:
      q: (B, T, K, G, N), rotated.
      k, v: (B, T, K, N), k rotated.
      old_k, old_v: (B, W, K, N), the rings before the first token.
      read: int (B,), tokens of the document before the first.
      reset: bool (B, T).
      prefix: bool (B, T) or None; tokens of one document where it is True see each other, later
        ones too, within the window. Such tokens do not see later ones beyond these T.
      block_size: tokens a block; cost and memory of a token grow with window + block_size.
      dtype: of the inputs of both products.

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
    # Documents are counted from 1, so that what pads the blocks belongs to none.
    ids = to_chunks(1 + jnp.cumsum(reset.astype(jnp.int32), 1), size)
    xs = {
        "q": jnp.moveaxis(to_chunks(q, size), 2, 4),  # (n, B, K, G, c, N)
        "ids": ids,
        "start": size * jnp.arange(blocks),
        "k": _heads_first(_with_neighbour_blocks(to_chunks(k, size), before, after)),
        "v": _heads_first(_with_neighbour_blocks(to_chunks(v, size), before, after)),
        "k_ids": _with_neighbour_blocks(ids, before, after),
    }
    if prefix is not None:
        xs["prefix"] = to_chunks(prefix, size)
        xs["k_prefix"] = _with_neighbour_blocks(xs["prefix"], before, after)

    def block(x):
        same = x["ids"][:, :, None] == x["k_ids"][:, None]
        causal = distance >= 0
        if prefix is not None:
            causal = causal | (x["prefix"][:, :, None] & x["k_prefix"][:, None])
        near = _part(x["q"], x["k"], x["v"], same & causal & (abs(distance) < window), dtype)
        first = x["ids"] == 1  # the document that the rings are of
        since = x["start"] + 1 + query[None] + age  # (B, c, W)
        seen = first[..., None] & (age < read[:, None, None]) & (since < window)
        none = (jnp.full_like(near[0], -jnp.inf), *map(jnp.zeros_like, near[1:]))
        far = jax.lax.cond(
            seen.any(), lambda: _part(x["q"], old_k, old_v, seen, dtype), lambda: none
        )
        # By selection: what another document left in the rings may be NaN.
        far = (far[0], far[1], jnp.where(first[:, None, None, :, None], far[2], 0.0))
        return _join(near, far)

    # With one block the scores are kept for the backward pass, with more they are computed again.
    if blocks > 1:
        out = jax.lax.map(jax.checkpoint(block), xs)  # (n, B, K, G, c, N)
    else:
        out = block(jax.tree.map(lambda x: x[0], xs))[None]
    return from_chunks(jnp.moveaxis(out, 4, 2), time)


def _with_neighbour_blocks(blocks, before, after):
    """(n, B, c, ...) -> (n, B, (before + 1 + after) c, ...): each block between its neighbours."""
    count = blocks.shape[0]
    ends = [(before, after)] + [(0, 0)] * (blocks.ndim - 1)
    blocks = jnp.pad(blocks, ends)
    return jnp.concatenate([blocks[i : i + count] for i in range(before + 1 + after)], 2)


def _heads_first(x):
    """(..., s, K, N) -> (..., K, s, N): products over many heads are fast only like this."""
    return jnp.moveaxis(x, -3, -2)


def _part(q, k, v, seen, dtype):
    """Softmax over some of the keys, before its division.

    q (B, K, G, t, N); k, v (B, K, s, N); seen bool (B, t, s) -> largest score (B, K, G, t), -inf if
    none is seen; sum of exp(score - largest) (B, K, G, t); their sum of values (B, K, G, t, N).
    """
    options = {"precision": precision_of(dtype), "preferred_element_type": jnp.float32}
    product = functools.partial(jnp.einsum, **options)
    q = (q * q.shape[-1] ** -0.5).astype(dtype)
    groups = q.shape[2:4]
    q = q.reshape(*q.shape[:2], -1, q.shape[-1])
    scores = product("bkqn,bksn->bkqs", q, k.astype(dtype))
    scores = scores.reshape(*q.shape[:2], *groups, -1)
    scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
    largest = jax.lax.stop_gradient(scores.max(-1))
    weights = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0.0, largest)[..., None])
    flat = weights.reshape(*q.shape[:3], -1)
    out = product("bkqs,bksn->bkqn", flat.astype(dtype), v.astype(dtype))
    return largest, weights.sum(-1), out.reshape(*q.shape[:2], *groups, -1)


def _join(*parts):
    """Join parts of a softmax -> (B, K, G, t, N)."""
    largest = functools.reduce(jnp.maximum, [part[0] for part in parts])
    scales = [jnp.exp(part[0] - largest) for part in parts]
    total = sum(scale * part[1] for scale, part in zip(scales, parts, strict=True))
    out = sum(scale[..., None] * part[2] for scale, part in zip(scales, parts, strict=True))
    return out / total[..., None]
