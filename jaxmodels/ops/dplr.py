"""The diagonal-plus-low-rank recurrence of RWKV-7, token by token and in chunks.

    S_t = diag(w_t) S_{t-1} + b_t (a_t^T S_{t-1}) + k_t v_t^T ;   y_t = S_t^T r_t

SYSTEMS 7.4, from BlinkDL's RWKV-LM (RWKV-v7); the chunk form is the WY representation used by
flash-linear-attention. Shapes: B batch, T time, H heads, K key size, V value size, c chunk size,
n chunks. All of it in float32.
"""

import jax
import jax.numpy as jnp

from jaxmodels.ops.chunks import from_chunks, same_segment, segment_cumsum, segment_ids, to_chunks
from jaxmodels.ops.triangular import unit_lower_inverse

MOST = 0.6066  # -log_w of RWKV-7 is at most e^{-1/2}


def dplr_step(state, r, log_w, k, v, a, b):
    """One token. state (B, H, K, V); r, log_w, k, a, b (B, H, K); v (B, H, V) -> (state, y)."""
    read = jnp.einsum("bhk,bhkv->bhv", a, state)
    state = jnp.exp(log_w)[..., None] * state
    state = state + b[..., None] * read[..., None, :] + k[..., None] * v[..., None, :]
    return state, jnp.einsum("bhk,bhkv->bhv", r, state)


def dplr_chunked(state, r, log_w, k, v, a, b, reset=None, *, chunk_size=64):
    """The same over (B, T, H, ...), `chunk_size` tokens at a time.

    Decays are factored, exp(g_t - g_i) = exp(g_t - s) exp(s - g_i), which is safe because RWKV-7
    bounds them: log_w >= -e^{-1/2}. With s half of what a chunk can lose, both factors stay within
    exp(+-20) at 64 tokens. (A shift read off the data would let the future round the past.)

    Args:
      state: (B, H, K, V), before the first token.
      r, log_w, k, a, b: (B, T, H, K); log_w in [-0.6066, 0].
      v: (B, T, H, V).
      reset: bool (B, T) or None.
      chunk_size: at most 128.

    Returns:
      (state after the last token, y (B, T, H, V)).
    """
    batch, time = r.shape[:2]
    size = min(chunk_size, time)
    r, log_w, k, v, a, b = (
        to_chunks(x.astype(jnp.float32), size).swapaxes(2, 3) for x in (r, log_w, k, v, a, b)
    )  # (n, B, H, c, ...)
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    ids = segment_ids(to_chunks(reset, size))[:, :, None]  # (n, B, 1, c)
    first = (ids == 0)[..., None]
    last = ids[..., -1:] == ids  # tokens whose document goes on after the chunk
    carried = (ids[..., -1:] == 0)[..., None]  # (n, B, 1, 1, 1)

    visible, earlier = same_segment(ids), same_segment(ids, strict=True)
    g = segment_cumsum(log_w, visible)
    end, middle = g[..., -1:, :], -0.5 * MOST * size
    inner, outer = jnp.exp(g - middle), jnp.exp(middle - g)
    before = jnp.exp(g - log_w - middle)  # up to the token before
    a_in, r_in, k_out, b_out = a * before, r * inner, k * outer, b * outer

    def pairs(x, y, mask):
        return jnp.where(mask, jnp.einsum("nbhtd,nbhid->nbhti", x, y), 0.0)

    solve = unit_lower_inverse(pairs(a_in, b_out, earlier))
    entering = jnp.where(first, jnp.exp(middle), 0.0)
    w = solve @ (a_in * entering)  # what each token's delta reads of the entering state
    u = solve @ (pairs(a_in, k_out, earlier) @ v)  # and of the chunk's own writes
    read_b, read_k = pairs(r_in, b_out, visible), pairs(r_in, k_out, visible)
    y = read_b @ u + read_k @ v
    read_state = r_in * entering + read_b @ w
    leaving = jnp.where(last[..., None], jnp.exp(end - middle), 0.0)
    k_end, b_end = k_out * leaving, b_out * leaving
    written = jnp.einsum("nbhtk,nbhtv->nbhkv", k_end, v)
    written = written + jnp.einsum("nbhtk,nbhtv->nbhkv", b_end, u)
    keep = jnp.exp(end).swapaxes(-1, -2)  # (n, B, H, K, 1)

    def chunk(state, parts):
        written, keep, b_end, w, carried = parts
        kept = keep * state + jnp.einsum("bhtk,bhtv->bhkv", b_end, w @ state)
        return written + jnp.where(carried, kept, 0.0), state

    parts = (written, keep, b_end, w, carried)
    state, entered = jax.lax.scan(chunk, state.astype(jnp.float32), parts)
    y = y + jnp.where(first, read_state @ entered, 0.0)
    return state, from_chunks(y.swapaxes(2, 3), time)
