"""Diagonal-plus-low-rank recurrence of RWKV-7 in float32: defined by `dplr_step`, and chunked.

    S_t = diag(w_t) S_{t-1} + b_t (a_t^T S_{t-1}) + k_t v_t^T ;   y_t = S_t^T r_t

Source: arXiv 2503.14456, BlinkDL's RWKV-LM (RWKV-v7); the chunked implementation uses the WY
representation of flash-linear-attention. Shapes: B batch, T time, H heads, K key size, V value
size, c chunk size, P heads per pack, M = H / P packs (`ops/common/head_packing.py`).
"""

import functools

import jax.numpy as jnp

from jaxmodels.ops.common import head_packing
from jaxmodels.ops.common.chunks import same_segment, segment_cumsum, segment_ids
from jaxmodels.ops.common.precision import EXACT

MOST = 0.6066  # -log_w of RWKV-7 is at most e^{-1/2}


def dplr_step(state, r, log_w, k, v, a, b):
    """Read a token: state (B, H, K, V); r, log_w, k, a, b (B, H, K); v (B, H, V) -> (state, y)."""
    read = jnp.einsum("bhk,bhkv->bhv", a, state, precision=EXACT)
    state = jnp.exp(log_w)[..., None] * state
    state = state + b[..., None] * read[..., None, :] + k[..., None] * v[..., None, :]
    return state, jnp.einsum("bhk,bhkv->bhv", r, state, precision=EXACT)


def dplr_chunked(mix, state, tokens, shared, reset=None, *, chunk_size=64, pack=None):
    """Run the recurrence in chunks of matmuls, in XLA; see `ops.dplr.dplr`.

    Decays are factored, exp(g_t - g_i) = exp(g_t - s) exp(s - g_i), which is safe because RWKV-7
    bounds them: log_w >= -e^{-1/2}. With s half of the minimum g, both factors stay within
    exp(+-20) at 64 tokens. (With a data-dependent s, later tokens would affect earlier rounding.)

    pack: P; None means 1 on a CPU, elsewhere as many heads as fill 128 lanes.
    """
    batch, time = tokens[0].shape[:2]
    heads = state.shape[1]
    tokens = tuple(x.reshape(batch, time, heads, -1) for x in tokens)
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    tokens = tuple(x.astype(jnp.float32) for x in tokens)
    chunk = functools.partial(_chunk, mix)
    run = functools.partial(head_packing.in_chunks, chunk, min(chunk_size, time))
    arguments = (state.astype(jnp.float32), tokens, shared, reset)
    state, y = head_packing.platform_dispatch(run, heads, max(state.shape[2:]), pack, *arguments)
    return state, y.reshape(batch, time, -1)


def _chunk(mix, pack, state, tokens, reset, shared, kept):
    """Compute one chunk, a body of `chunk_loop`; kept: the inverse."""
    keeps = []

    def recur(*inputs):
        state_after, y, kept_now = _recur(pack, state, inputs, reset, kept)
        keeps.append(kept_now)
        return state_after, y

    out = mix(recur, tokens, shared, functools.partial(head_packing.head_sum, pack))
    return out, keeps[0]


def _by_key(x):
    return x.swapaxes(2, 3)


def _recur(pack, state, inputs, reset, inverse):
    r, log_w, k, v, a, b = inputs
    size = r.shape[2]
    ids = segment_ids(reset)
    first = (ids == 0)[:, None, :, None]
    last = (ids[:, -1:] == ids)[:, None, :, None]  # tokens whose document continues after the chunk
    carried = (ids[:, -1] == 0)[:, None, None, None]
    visible, earlier = same_segment(ids)[:, None], same_segment(ids, strict=True)[:, None]

    g = segment_cumsum(log_w, visible)
    end, middle = g[:, :, -1:], -0.5 * MOST * size
    inner, outer = jnp.exp(g - middle), jnp.exp(middle - g)
    before = jnp.exp(g - log_w - middle)  # up to the token before
    a_in, r_in, k_out, b_out = a * before, r * inner, k * outer, b * outer
    spread = functools.partial(head_packing.spread, pack)
    k_rows, b_rows, v_rows = spread(k_out), spread(b_out), spread(v)
    earlier, visible = (jnp.tile(mask, pack) for mask in (earlier, visible))

    def pairs(x, rows, mask):  # (B, M, c, P c)
        return jnp.where(mask, head_packing.product(x, rows.swapaxes(2, 3)), 0.0)

    a_b = pairs(a_in, b_rows, earlier)
    if inverse is None:
        inverse = head_packing.inverse(pack, a_b)
    entering = jnp.exp(middle) * state
    # The solve mixes all rows of u, so a NaN of a document that ends here must be removed first.
    sound = jnp.where(carried | jnp.isfinite(entering), entering, 0.0)
    read = head_packing.product(pairs(a_in, k_rows, earlier), v_rows)
    u = head_packing.solved(
        pack, inverse, a_b, read + jnp.where(first, head_packing.product(a_in, sound), 0.0)
    )
    y = head_packing.product(pairs(r_in, b_rows, visible), spread(u))
    y = y + head_packing.product(pairs(r_in, k_rows, visible), v_rows)
    y = y + jnp.where(first, head_packing.product(r_in, entering), 0.0)

    k_end, b_end = (jnp.where(last, x, 0.0).swapaxes(2, 3) for x in (k_out, b_out))
    written = head_packing.product(k_end, v) + head_packing.product(b_end, u)
    written = head_packing.block_diagonal(pack, written)
    kept = jnp.where(carried, state, 0.0)
    # The state that is kept is not scaled by exp(middle) and back, so that tokens without decay and
    # write, as in padding, leave it bit for bit.
    state = _by_key(jnp.exp(end)) * kept + _by_key(jnp.exp(end - middle)) * written
    return state, y, inverse
