"""The gated delta rule, token by token and in chunks.

    S_t = e^{g_t} S_{t-1} + beta_t k_t (v_t - e^{g_t} S_{t-1}^T k_t)^T ;   y_t = S_t^T q_t

SYSTEMS 7.6, from arXiv 2412.06464 (Gated DeltaNet); the chunk form is its WY representation, as in
flash-linear-attention. Shapes: B batch, T time, H heads, K key size, V value size, c chunk size, n
chunks. All of it in float32.
"""

import jax
import jax.numpy as jnp

from jaxmodels.ops.chunks import from_chunks, same_segment, segment_ids, to_chunks
from jaxmodels.ops.triangular import unit_lower_inverse


def gated_delta_step(state, q, k, v, g, beta):
    """One token. state (B, H, K, V); q, k (B, H, K); v (B, H, V); g, beta (B, H) -> (state, y)."""
    state = jnp.exp(g)[..., None, None] * state
    wrong = v - jnp.einsum("bhk,bhkv->bhv", k, state)
    state = state + (beta[..., None] * k)[..., None] * wrong[..., None, :]
    return state, jnp.einsum("bhk,bhkv->bhv", q, state)


def gated_delta_chunked(state, q, k, v, g, beta, reset=None, *, chunk_size=64):
    """The same over (B, T, H, ...), `chunk_size` tokens at a time.

    The decay has no bound, so it is never factored: exp is taken of what lies between two tokens.

    Args:
      state: (B, H, K, V), before the first token.
      q, k: (B, T, H, K); k of length at most 1, or beta k k^T may not be a contraction.
      v: (B, T, H, V).
      g: (B, T, H), log decay, finite and <= 0.
      beta: (B, T, H), how much of k's old value is replaced.
      reset: bool (B, T) or None.
      chunk_size: a power of two from 16 on wastes nothing.

    Returns:
      (state after the last token, y (B, T, H, V)).
    """
    batch, time = q.shape[:2]
    size = min(chunk_size, time)
    q, k, v, g, beta = (
        to_chunks(x.astype(jnp.float32), size).swapaxes(2, 3) for x in (q, k, v, g, beta)
    )  # (n, B, H, c, ...)
    beta = beta[..., None]
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    ids = segment_ids(to_chunks(reset, size))[:, :, None]  # (n, B, 1, c)
    first = (ids == 0)[..., None]
    carried = (ids[..., -1:] == 0)[..., None]  # (n, B, 1, 1, 1)

    visible, earlier = same_segment(ids), same_segment(ids, strict=True)
    between = _between(g, earlier)
    decay = jnp.exp(jnp.where(visible, between, -jnp.inf))
    from_start = jnp.exp(jnp.where(first, between[..., :1] + g[..., :1, None], -jnp.inf))
    delta = beta * jnp.where(earlier, jnp.einsum("nbhtk,nbhik->nbhti", k, k) * decay, 0.0)
    solve = unit_lower_inverse(-delta)
    u = solve @ (beta * v)  # what each token writes, if the chunk starts from nothing
    w = solve @ (beta * from_start * k)  # and less for what it reads of the entering state
    read = jnp.einsum("nbhtk,nbhik->nbhti", q, k) * decay
    y = read @ u
    read_state = from_start * q - read @ w
    k_end = k * decay[..., -1, :, None]
    written = jnp.einsum("nbhtk,nbhtv->nbhkv", k_end, u)
    keep = from_start[..., -1:, :]

    def chunk(state, parts):
        written, keep, k_end, w, carried = parts
        kept = keep * state - jnp.einsum("bhtk,bhtv->bhkv", k_end, w @ state)
        return written + jnp.where(carried, kept, 0.0), state

    parts = (written, keep, k_end, w, carried)
    state, entered = jax.lax.scan(chunk, state.astype(jnp.float32), parts)
    y = y + jnp.where(first, read_state @ entered, 0.0)
    return state, from_chunks(y.swapaxes(2, 3), time)


def _between(g, earlier):
    """g (..., c), its `same_segment` (strict) -> (..., c, c): the sum over i < j <= t at [t, i].

    Each is summed by itself. A difference of two sums from the chunk's start would carry the
    rounding of a large decay to pairs far from it, and could come out positive.
    """
    size = g.shape[-1]
    after = jnp.where(earlier, g[..., None], 0.0)  # g_j at [j, i], if j is after i
    ones = jnp.broadcast_to(jnp.tril(jnp.ones((size, size))), after.shape)
    return jnp.matmul(ones, after, precision=jax.lax.Precision.HIGHEST)
