"""All of Mamba-2 between its projections, in one loop over chunks: the form for a TPU.

    x, b, c = silu(conv(xbc)) ;  h_t = exp(delta_t a) h_{t-1} + b_t (delta_t x_t)^T ;
    y = RMSNorm((c^T h + D x) silu(z)) scale

SYSTEMS 7.6, the equations of `ops/short_conv.py` and `ops/ssd.py`, which this equals to rounding. A
TPU is bound by what travels to memory between two products, so a chunk is computed from what the
projection made to what the next one reads, and computed again for the backward pass. What costs
little there is a product: tokens are shifted, and numbers a head are spread over its channels, by
products with ones and zeros. Shapes: B batch, T time, H heads, P head size, D = H P, N state size,
E = D + 2 N, K taps, c chunk size; p heads lie side by side to fill 128 lanes, M = H / p.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.chunk_loop import chunk_loop
from jaxmodels.ops.chunks import same_segment, segment_cumsum, segment_ids
from jaxmodels.ops.precision import EXACT
from jaxmodels.ops.ssd import GRAIN, LEAST

LANES = 128
FAST = 2**20  # entries of a chunk's array, of which some dozens fit into fast memory


class SSDVectors(NamedTuple):
    """Parameters: taps (E, K), conv_bias (E,), dt_bias, a (negative), d (H,), norm_scale (D,)."""

    taps: jax.Array
    conv_bias: jax.Array
    dt_bias: jax.Array
    a: jax.Array
    d: jax.Array
    norm_scale: jax.Array


def ssd_loop(conv, state, z, xbc, delta, vectors, reset=None, *, chunk_size, eps, dtype):
    """From the projections to the normalised y, for heads that share b and c.

    Args:
      conv: (B, K - 1, E), the inputs of the convolution before the first token.
      state: (B, N, D), before the first token.
      z: (B, T, D), xbc: (B, T, E), delta: (B, T, H) before bias and softplus.
      vectors: `SSDVectors`.
      reset: bool (B, T) or None.
      chunk_size: at most 256.
      eps: of the norm.
      dtype: what the inputs of the products of b, c, x and states are rounded to.

    Returns:
      (conv and state after the last token, y (B, T, D)).
    """
    batch, time = z.shape[:2]
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    size = min(chunk_size, time)
    fitting = [n for n in range(1, batch + 1) if batch % n == 0 and n * size * z.shape[2] <= FAST]
    (conv, state), y = chunk_loop(
        functools.partial(_chunk, eps, jnp.dtype(dtype)),
        (conv, state),
        (z, xbc, delta),
        reset,
        vectors,
        chunk_size=size,
        rows=max(fitting, default=1),
    )
    return conv, state, y


def _chunk(eps, dtype, state, tokens, reset, vectors, kept):
    """One chunk, as `chunk_loop` wants it; nothing is kept."""
    (conv, state), (z, xbc, delta), p = state, tokens, vectors
    channels, states = z.shape[2], state.shape[1]
    heads = delta.shape[2]
    ids = segment_ids(reset)
    visible = same_segment(ids)
    first, last = (ids == 0)[..., None], (ids == ids[:, -1:])[..., None]
    carried = (ids[:, -1] == 0)[:, None, None]
    ones = np.repeat(np.eye(heads, dtype=np.float32), channels // heads, 1)
    dot = functools.partial(_product, dtype)

    def wide(x):  # (..., H) -> (..., D)
        return jnp.matmul(x, ones, precision=EXACT)

    conv, mixed = _convolve(conv, xbc, ids, p)
    mixed = jax.nn.silu(mixed)
    x, b, c = jnp.split(mixed, [channels, channels + states], -1)
    delta = jax.nn.softplus(delta + p.dt_bias.reshape(1, 1, -1))
    log = jnp.maximum(delta * p.a.reshape(1, 1, -1), LEAST)
    # Small and large parts of the decays are summed by themselves, see `ops/ssd.py`.
    coarse = jnp.round(log / GRAIN) * GRAIN
    sums = [segment_cumsum(part, visible) for part in (coarse, log - coarse)]  # (B, c, H)
    whole = sums[0] + sums[1]

    written = x * wide(delta)
    y = _within_chunk(dot, dot(c, b.swapaxes(1, 2)), written, sums, visible)
    read = wide(_exp(whole, first)) * dot(c, state)
    y = y + jnp.where(first, read, 0.0) + x * wide(p.d.reshape(1, 1, -1))
    leaving = written * wide(_exp(sum(s[:, -1:] - s for s in sums), last))
    kept = wide(jnp.exp(jnp.minimum(whole[:, -1:], 0.0))) * state
    state = dot(b.swapaxes(1, 2), leaving) + jnp.where(carried, kept, 0.0)

    y = y * jax.nn.silu(z)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)
    return ((conv, state), y * p.norm_scale.reshape(1, 1, -1)), ()


def _convolve(conv, xbc, ids, p):
    """(the last K - 1 inputs of the last document, the convolution (B, c, E))."""
    size, taps = xbc.shape[1], p.taps.T[::-1]  # the first for the token itself
    before = len(taps) - 1
    t, i = np.arange(size)[:, None], np.arange(size)[None]
    same = ids[:, :, None] == ids[:, None]
    y = p.conv_bias.reshape(1, 1, -1) + xbc * taps[0].reshape(1, 1, -1)
    for back in range(1, before + 1):
        shift = (same & (t - i == back)[None]).astype(jnp.float32)
        y = y + jnp.matmul(shift, xbc, precision=EXACT) * taps[back].reshape(1, 1, -1)
    # What the first K - 1 tokens see of the inputs before the chunk.
    seen = []
    for token in range(min(before, size)):
        backs = range(token + 1, before + 1)
        seen.append(sum(conv[:, before + token - back] * taps[back][None] for back in backs))
    places = (np.arange(size)[:, None] == np.arange(len(seen))[None])[None] & (ids == 0)[..., None]
    placed = jnp.matmul(places.astype(jnp.float32), jnp.stack(seen, 1), precision=EXACT)
    y = y + jnp.where((ids == 0)[..., None], placed, 0.0)
    past = jnp.concatenate([conv, xbc[:, -before:]], 1)[:, -before:]
    past_ids = jnp.pad(ids, [(0, 0), (before, 0)])[:, -before:]
    return jnp.where((past_ids == ids[:, -1:])[..., None], past, 0.0), y


def _within_chunk(dot, scores, written, sums, visible):
    """sum_i scores_ti exp(sum of decays between) written_i, (B, c, D)."""
    batch, size, channels = written.shape
    heads = sums[0].shape[2]
    head = channels // heads
    side = max(p for p in range(1, heads + 1) if heads % p == 0 and p * head <= max(LANES, head))
    packs = heads // side
    of_pair = np.arange(side * size) // size
    choose = np.float32(np.arange(side)[:, None] == of_pair[None])

    def exponents(s):  # (B, M, c, p c)
        s = s.swapaxes(1, 2).reshape(batch, packs, side, size)
        rows = jnp.matmul(s.swapaxes(2, 3), choose, precision=EXACT)
        return rows - s.reshape(batch, packs, 1, side * size)

    pairs = _exp(sum(map(exponents, sums)), jnp.tile(visible, side)[:, None])
    pairs = pairs * jnp.tile(scores, side)[:, None]
    written = written.reshape(batch, size, packs, side * head).swapaxes(1, 2)
    own = (of_pair[:, None] == (np.arange(side * head) // head)[None])[None, None]
    rows = jnp.where(own, jnp.concatenate([written] * side, 2), 0.0)  # each head's in its own
    return dot(pairs, rows).swapaxes(1, 2).reshape(batch, size, channels)


def _exp(exponent, mask):
    """exp where `mask`, else 0; rounding must not make an exponent positive."""
    return jnp.exp(jnp.where(mask, jnp.minimum(exponent, 0.0), -jnp.inf))


def _product(dtype, x, y):
    """x @ y of inputs rounded to `dtype`, in float32."""
    if dtype == jnp.float32:
        return jnp.matmul(x, y, precision=EXACT)
    return jnp.matmul(x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32)
