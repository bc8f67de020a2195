"""Mamba-2 mixer as one XLA loop over chunks, for TPU.

Equal, up to rounding, to `ops/short_conv/xla.py` and `ops/ssd/chunked.py`. A TPU is bound by HBM
traffic between matmuls, so one loop body computes a chunk from the output of in_proj to the input
of out_proj, and recomputes it for the backward pass. Matmuls with ones and zeros, cheap on a TPU,
shift tokens and broadcast per-head numbers over channels. Shapes: B batch, T time, H heads, P head
size, D = H P, N state size, E = D + 2 N, K taps, c chunk size, p heads fill 128 lanes, M = H / p.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.common.chunk_loop import chunk_loop, rows_within
from jaxmodels.ops.common.chunks import masked_exp, same_segment, segment_cumsum, segment_ids
from jaxmodels.ops.common.precision import EXACT
from jaxmodels.ops.ssd.chunked import GRAIN, LEAST

LANES = 128
VMEM_ENTRIES = 2**20  # size limit of a chunk's array: some dozens fit into VMEM


def mix(
    state, inputs, vectors, read_out, reset, write, *, norm_groups, norm_eps, chunk_size, dtype
):
    """See `mamba2_mixer`; requires one group, one norm group and no `write`."""
    del write, norm_groups
    conv, memory = state
    params = vectors._replace(A_log=None), -jnp.exp(vectors.A_log)
    batch, time, width = inputs[0].shape
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    size = min(chunk_size, time)
    (conv, memory), y = chunk_loop(
        functools.partial(_chunk, norm_eps, jnp.dtype(dtype)),
        (conv, memory[:, 0]),
        tuple(inputs),
        reset,
        params,
        chunk_size=size,
        rows=rows_within(batch, size * width, VMEM_ENTRIES),
    )
    return (conv, memory[:, None]), read_out(y)


def _chunk(eps, dtype, state, tokens, reset, params, kept):
    """Compute one chunk, a body of `chunk_loop`; nothing is kept."""
    (conv, state), (z, xbc, delta), (p, a) = state, tokens, params
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
    log = jnp.maximum(delta * a.reshape(1, 1, -1), LEAST)
    # Coarse and fine parts of the decays are summed separately; see `ops/ssd/chunked.py`.
    coarse = jnp.round(log / GRAIN) * GRAIN
    sums = [segment_cumsum(part, visible) for part in (coarse, log - coarse)]  # (B, c, H)
    whole = sums[0] + sums[1]

    written = x * wide(delta)
    y = _within_chunk(dot, dot(c, b.swapaxes(1, 2)), written, sums, visible)
    read = wide(masked_exp(whole, first)) * dot(c, state)
    y = y + jnp.where(first, read, 0.0) + x * wide(p.D.reshape(1, 1, -1))
    leaving = written * wide(masked_exp(sum(s[:, -1:] - s for s in sums), last))
    kept = wide(jnp.exp(jnp.minimum(whole[:, -1:], 0.0))) * state
    state = dot(b.swapaxes(1, 2), leaving) + jnp.where(carried, kept, 0.0)

    y = y * jax.nn.silu(z)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)
    return ((conv, state), y * p.norm_scale.reshape(1, 1, -1)), ()


def _convolve(conv, xbc, ids, p):
    """Return the last K - 1 inputs of the last document, and the convolution (B, c, E)."""
    size, taps = xbc.shape[1], p.conv_taps.T[::-1]  # the first for the token itself
    before = len(taps) - 1
    t, i = np.arange(size)[:, None], np.arange(size)[None]
    same = ids[:, :, None] == ids[:, None]
    y = p.conv_bias.reshape(1, 1, -1) + xbc * taps[0].reshape(1, 1, -1)
    for back in range(1, before + 1):
        shift = (same & (t - i == back)[None]).astype(jnp.float32)
        y = y + jnp.matmul(shift, xbc, precision=EXACT) * taps[back].reshape(1, 1, -1)
    # Contributions of the inputs before the chunk to its first K - 1 tokens.
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
    """Return sum_i scores_ti exp(log decay from i to t) written_i, (B, c, D)."""
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

    pairs = masked_exp(sum(map(exponents, sums)), jnp.tile(visible, side)[:, None])
    pairs = pairs * jnp.tile(scores, side)[:, None]
    written = written.reshape(batch, size, packs, side * head).swapaxes(1, 2)
    own = (of_pair[:, None] == (np.arange(side * head) // head)[None])[None, None]
    rows = jnp.where(own, jnp.concatenate([written] * side, 2), 0.0)  # separate rows per head
    return dot(pairs, rows).swapaxes(1, 2).reshape(batch, size, channels)


def _product(dtype, x, y):
    """Return x @ y in float32, inputs rounded to `dtype`."""
    if dtype == jnp.float32:
        return jnp.matmul(x, y, precision=EXACT)
    return jnp.matmul(x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32)
