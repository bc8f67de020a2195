"""Gated delta rule, token by token and chunked, in float32.

    S_t = e^{g_t} S_{t-1} + beta_t k_t (v_t - e^{g_t} S_{t-1}^T k_t)^T ;   y_t = S_t^T q_t

Source: arXiv 2412.06464 (Gated DeltaNet); the chunked implementation uses its WY representation, as
in flash-linear-attention. Shapes: B batch, T time, H heads, K key size, V value size, c chunk size,
P heads per pack, M = H / P packs (`ops/common/head_packing.py`).
"""

import functools

import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.common import head_packing
from jaxmodels.ops.common.chunks import same_segment, segment_ids
from jaxmodels.ops.common.precision import EXACT


def gated_delta_step(state, q, k, v, g, beta):
    """Read a token: state (B, H, K, V); q, k (B, H, K); v (B, H, V); g, beta (B, H)."""
    state = jnp.exp(g)[..., None, None] * state
    error = v - jnp.einsum("bhk,bhkv->bhv", k, state, precision=EXACT)
    state = state + (beta[..., None] * k)[..., None] * error[..., None, :]
    return state, jnp.einsum("bhk,bhkv->bhv", q, state, precision=EXACT)


def gated_delta_chunked(state, q, k, v, g, beta, reset=None, *, chunk_size=64, pack=None):
    """Read (B, T, H, ...), `chunk_size` tokens at a time.

    The decay is unbounded, so exp is taken of the log decay between two tokens, never factored.

    Args:
      state: (B, H, K, V), before the first token.
      q, k: (B, T, H, K); k of norm at most 1, so that beta k k^T is a contraction.
      v: (B, T, H, V).
      g: (B, T, H), log decay, finite and <= 0.
      beta: (B, T, H), fraction of the value stored for k that is replaced.
      reset: bool (B, T) or None.
      chunk_size: most efficient if a power of two, at least 16.
      pack: P; None means 1 on a CPU, elsewhere as many heads as fill 128 lanes.

    Returns:
      (state after the last token, y (B, T, H, V)).
    """
    batch, time, heads = q.shape[:3]
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    q, k, v, g, beta = (x.astype(jnp.float32) for x in (q, k, v, g, beta))
    run = functools.partial(head_packing.in_chunks, _chunk, min(chunk_size, time))
    arguments = (state.astype(jnp.float32), (q, k, v, g, beta), (), reset)
    return head_packing.platform_dispatch(run, heads, q.shape[3], pack, *arguments)


def _chunk(pack, state, tokens, reset, shared, kept):
    """Compute one chunk, a body of `chunk_loop`; kept: the inverse."""
    q, k, v, g, beta = tokens  # (B, M, c, P K), v (B, M, c, P V), gates (B, 1, c, H)
    size, keys, values = q.shape[2], q.shape[3] // pack, v.shape[3] // pack
    ids = segment_ids(reset)
    first = (ids == 0)[:, None, :, None]
    carried = (ids[:, -1] == 0)[:, None, None, None]
    visible, earlier = same_segment(ids)[:, None], same_segment(ids, strict=True)[:, None]
    wide = functools.partial(_wide, pack)

    after = jnp.where(jnp.tile(earlier, pack), wide(g, size), 0.0)
    ones = jnp.tril(jnp.ones((size, size), jnp.float32))[None, None]
    decay = jnp.exp(jnp.where(jnp.tile(visible, pack), _sums(ones, after), -jnp.inf))
    from_start = _sums(visible.astype(jnp.float32), g)  # (B, 1, c, H)
    from_start = jnp.exp(jnp.where(first, from_start, -jnp.inf))
    to_end = _sums(earlier.swapaxes(2, 3).astype(jnp.float32), g)
    last = (ids[:, -1:] == ids)[:, None, :, None]  # tokens whose document continues after the chunk
    k_end = k * wide(jnp.exp(jnp.where(last, to_end, -jnp.inf)), keys)

    k_rows = head_packing.spread(pack, k).swapaxes(2, 3)
    read = head_packing.product(q, k_rows) * decay
    delta = jnp.where(jnp.tile(earlier, pack), head_packing.product(k, k_rows) * decay, 0.0)
    delta = -wide(beta, size) * delta
    if kept is None:
        kept = head_packing.inverse(pack, delta)
    # The solve mixes all rows of u, so a NaN of a document that ends here must be removed first.
    sound = jnp.where(carried | jnp.isfinite(state), state, 0.0)
    start = wide(from_start, values)
    error = v - jnp.where(first, start * head_packing.product(k, sound), 0.0)
    u = head_packing.solved(pack, kept, delta, wide(beta, values) * error)
    y = head_packing.product(read, head_packing.spread(pack, u))
    y = y + jnp.where(first, start * head_packing.product(q, state), 0.0)
    written = head_packing.block_diagonal(pack, head_packing.product(k_end.swapaxes(2, 3), u))
    state = jnp.where(carried, start[:, :, -1:] * state, 0.0) + written
    return (state, y), kept


def _sums(ones, x):
    """Sum over tokens in float32, each sum separately.

    A difference of two sums from the chunk's start would carry the rounding of a large decay to
    later pairs, and could be positive.
    """
    ones = jnp.broadcast_to(ones, (*x.shape[:2], *ones.shape[2:]))
    return jnp.matmul(ones, x, precision=EXACT)


def _wide(pack, x, size):
    """Broadcast per-head numbers (B, 1, c, H) to lanes, (B, M, c, P size)."""
    if pack == 1:
        return x.swapaxes(1, 3)
    heads = x.shape[3]
    lanes = np.repeat(np.eye(heads, dtype=np.float32), size, 1)
    lanes = lanes.reshape(heads, heads // pack, pack * size)
    return jnp.einsum("bch,hmx->bmcx", x[:, 0], lanes, precision=EXACT)
