"""Recurrence of RWKV-6, token by token and chunked, in float32.

    y_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t ;   S_t = diag(w_t) S_{t-1} + k_t v_t^T

Source: arXiv 2404.05892, BlinkDL's RWKV-LM (RWKV-v5, x060). The decay w_t = exp(log_w_t) depends on
the data and has no lower bound, so factors exp(g_t) exp(-g_i), with g the sum of log_w, would
overflow. Shapes: B batch, T time, H heads, K key size, V value size, c chunk size, P heads per
pack, M = H / P packs (`ops/common/head_packing.py`).
"""

import functools

import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.common import head_packing
from jaxmodels.ops.common.chunks import same_segment, segment_ids
from jaxmodels.ops.common.precision import EXACT


def wkv6_step(state, r, log_w, k, v, bonus):
    """Read one token.

    Args:
      state: (B, H, K, V).
      r, log_w, k: (B, H, K); log_w <= 0.
      v: (B, H, V).
      bonus: (H, K), u, weight of the current token's key.

    Returns:
      (state, y (B, H, V)).
    """
    own = jnp.sum(r * bonus[None] * k, -1, keepdims=True)
    y = jnp.einsum("bhk,bhkv->bhv", r, state, precision=EXACT) + own * v
    return jnp.exp(log_w)[..., None] * state + k[..., None] * v[..., None, :], y


def wkv6_chunked(state, r, log_w, k, v, bonus, reset=None, *, chunk_size=32, pack=None):
    """Read (B, T, H, ...), `chunk_size` tokens at a time.

    The backward pass stores only the inputs and the states at chunk boundaries.

    Args:
      state: (B, H, K, V), before the first token.
      r, log_w, k: (B, T, H, K); log_w <= 0 and finite.
      v: (B, T, H, V).
      bonus: (H, K).
      reset: bool (B, T) or None.
      chunk_size: preferably a power of two.
      pack: P; None means 1 on a CPU, elsewhere as many heads as fill 128 lanes.

    Returns:
      (state after the last token, y (B, T, H, V)).
    """
    batch, time, heads = r.shape[:3]
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    tokens = tuple(x.astype(jnp.float32) for x in (r, log_w, k, v))
    run = functools.partial(head_packing.in_chunks, _chunk, min(chunk_size, time))
    arguments = (state.astype(jnp.float32), tokens, bonus, reset)
    return head_packing.platform_dispatch(run, heads, max(state.shape[2:]), pack, *arguments)


def _chunk(pack, state, tokens, reset, bonus, kept):
    """Compute one chunk, a body of `chunk_loop`; nothing is kept."""
    r, log_w, k, v = tokens  # (B, M, c, P K), v (B, M, c, P V)
    ids = segment_ids(reset)
    first = (ids == 0)[:, None, :, None]
    last = (ids[:, -1:] == ids)[:, None, :, None]  # tokens whose document continues after the chunk
    carried = (ids[:, -1] == 0)[:, None, None, None]
    earlier = jnp.tile(same_segment(ids, strict=True)[:, None], pack)

    before, after, *between = _sums(log_w)
    scores = jnp.where(earlier, _scores(pack, r, k, between), 0.0)
    y = head_packing.product(scores, head_packing.spread(pack, v))
    y = y + head_packing.head_sum(pack, r * bonus * k, v.shape[3] // pack) * v
    y = y + jnp.where(first, head_packing.product(r * jnp.exp(before), state), 0.0)
    kept = jnp.exp(log_w.sum(2))[..., None] * state
    written = jnp.where(last, k * jnp.exp(after), 0.0).swapaxes(2, 3)
    written = head_packing.block_diagonal(pack, head_packing.product(written, v))
    return (written + jnp.where(carried, kept, 0.0), y), ()


def _sums(log_w):
    """Sum log_w (..., c, K) over the tokens before and after each token, and for each of `_halves`.

    Computed by one float32 matmul with ones and zeros.
    """
    size = log_w.shape[-2]
    earlier = np.tri(size, k=-1, dtype=bool)
    masks = [earlier, earlier.T]
    for same, reads, _ in _halves(size)[1:]:
        masks.append(same & np.where(reads, earlier, earlier.T))
    ones = _lead(np.float32(np.concatenate(masks)), log_w)
    ones = jnp.broadcast_to(ones, (*log_w.shape[:-2], *ones.shape[-2:]))
    sums = jnp.matmul(ones, log_w, precision=EXACT)
    return [sums[..., i : i + size, :] for i in range(0, sums.shape[-2], size)]


def _halves(size):
    """Return [(same block of m tokens, reads, pairs)] for m = 1, 2, 4 ... < size.

    In each block of 2 m tokens, the second half, `reads` (size, 1), reads the first: `pairs`
    (size, size).
    """
    halves, m = [], 1
    while m < size:
        block = np.arange(size)[:, None] // m
        reads = block % 2 == 1
        halves.append((block == block.T, reads, reads & (block.T == block - 1)))
        m *= 2
    return halves


def _scores(pack, r, k, between):
    """Return sum_d r_t k_i exp(sum of log_w strictly between i and t), (..., c, P c), 0 for i >= t.

    Recursive halving: at level m, reading tokens and read tokens both decay towards the boundary
    between their halves. All exponents are sums of log decays, not differences, so nothing
    overflows or cancels. Each pair of tokens is handled at one level, so this takes log2 c matmuls
    and log2 c exponentials per token, instead of c. Tokens before i or after t have no effect.

    Args:
      pack: P.
      r, k: (..., c, P K).
      between: for m = 2, 4 ..., sums (..., c, P K) up to the boundary; at m = 1 they are empty.
    """
    size = r.shape[-2]
    scores = jnp.zeros((*r.shape[:-1], pack * size), jnp.float32)
    for i, (_, reads, pairs) in enumerate(_halves(size)):
        x = jnp.where(_lead(reads, r), r, k)
        if i > 0:
            x = x * jnp.exp(between[i - 1])
        products = head_packing.product(x, head_packing.spread(pack, x).swapaxes(-1, -2))
        scores = jnp.where(_lead(np.tile(pairs, pack), r), products, scores)
    return scores


def _lead(constant, x):
    return jnp.asarray(constant).reshape((1,) * (x.ndim - constant.ndim) + constant.shape)
