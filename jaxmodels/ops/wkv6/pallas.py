"""Recurrence of RWKV-6 as a Pallas TPU kernel, fused with the norm and the gate around it.

The algorithm is that of `chunked.py`, on one row and packs of heads; the kernel and its gradient
are built by `ops/head_kernels`. States are transposed, (V, P K), so that decays are along the
lanes. As in RWKV-7's kernel, a TPU multiplies by three bfloat16 passes (16 bits per factor); sums
of log decays are float32.

Shapes: B batch, T time, H heads, K key size, V value size, c chunk size, P heads per pack.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxmodels.errors import UserError
from jaxmodels.ops.common.pallas_tpu import SUBLANES
from jaxmodels.ops.head_kernels.heads import sizes_of
from jaxmodels.ops.head_kernels.run import Kernel, run_kernel
from jaxmodels.ops.wkv6.xla import EPSILON, read


def mix(state, tokens, vectors, reset, norm_groups, chunk_size):
    """Run as a TPU kernel, interpreted on other platforms; see `wkv6_mixer`."""
    if chunk_size < SUBLANES or chunk_size & (chunk_size - 1):
        raise UserError(
            'implementation="pallas" requires as chunk_size a power of two of at least '
            f"{SUBLANES}, got {chunk_size}"
        )
    heads, keys, values = state.shape[1:]
    fused = norm_groups == heads
    longest = max(SUBLANES, 1 << (tokens[0].shape[1] - 1).bit_length())
    sizes, fill = sizes_of(min(chunk_size, longest), heads, math.gcd(keys, values))
    shared = [vectors.bonus]
    if fused:
        shared += [x.reshape(heads, -1) for x in vectors[1:]]
    kernel = Kernel("wkv6", functools.partial(_chunk, fused, values), lambda *_: (), keeps=False)
    used = tokens if fused else tokens[:-1]
    arguments = state.swapaxes(2, 3), used, (), shared, reset
    state, y = run_kernel(kernel, sizes, fill, *arguments, y_lanes=values)
    y = y if fused else read(y, tokens[-1], vectors, norm_groups)
    return state.swapaxes(2, 3), y


def _chunk(fused, values, heads, state, tokens, numbers, shared, kept):
    """Compute one chunk; tokens r, log_w, k (c, P K), v, z (c, P V). See `Kernel.body`."""
    del numbers, kept
    bonus, *norm = shared
    state, y = _recur(heads, state, *tokens[:4], bonus)
    if fused:
        scale, bias = norm
        z = tokens[4]
        y = y - heads.head_sum(y) / values
        y = y * jax.lax.rsqrt(heads.head_sum(y * y) / values + EPSILON)
        y = (y * scale + bias) * (z / (1.0 + jnp.exp(-z)))
    return (state, y), None


def _recur(heads, state, r, log_w, k, v, bonus):
    """Run the recurrence over the chunk; see `chunked.py`."""
    masks, size = heads.masks, heads.sizes.chunk
    before, after, *between = _sums(heads, log_w)
    # Heads' products of r, bonus and k are the scores of a token with itself.
    scores = jnp.where(masks.earlier, _scores(heads, r, k, between), 0.0)
    y = heads.dot(scores, heads.spread(v))
    y = y + _own(heads, r * bonus * k, v.shape[1]) * v
    entering = heads.dot(r * jnp.exp(before), heads.spread(state), (1, 1))
    y = y + jnp.where(masks.first, entering, 0.0)
    k_end = jnp.where(masks.last, k * jnp.exp(after), 0.0)
    written = heads.compact(heads.dot(v, k_end, (0, 0)))
    decay = jnp.exp(before[size - 1 :] + log_w[size - 1 :])
    return written + jnp.where(masks.carried, decay * state, 0.0), y


def _own(heads, x, lanes):
    """Sum x (c, P K) over each head, broadcast to (c, P V)."""
    if x.shape[1] == lanes:
        return heads.head_sum(x)
    pack, keys = heads.sizes.pack, x.shape[1] // heads.sizes.pack
    parts = [jnp.sum(x[:, p * keys : (p + 1) * keys], 1, keepdims=True) for p in range(pack)]
    return heads.wide(jnp.concatenate(parts, 1), lanes // pack)


def _tokens(size, columns):
    """Return the places of the row's and of the column's token, int32 (c, columns)."""
    t, i = (jax.lax.broadcasted_iota(jnp.int32, (size, columns), axis) for axis in (0, 1))
    return t, i & (size - 1)


def _sums(heads, log_w):
    """Sum log_w over the tokens before and after each, and up to the boundary at each level."""
    size = log_w.shape[0]
    t, i = _tokens(size, size)
    choices, shift = [i < t, i > t], 1
    while 1 << shift < size:
        reads = (t >> shift) & 1 == 1
        same = t >> shift == i >> shift
        choices.append(same & ((reads & (i < t)) | (~reads & (i > t))))
        shift += 1
    ones = jnp.concatenate([choice.astype(jnp.float32) for choice in choices])
    sums = heads.sums(ones, log_w)
    return [sums[n : n + size] for n in range(0, sums.shape[0], size)]


def _scores(heads, r, k, between):
    """Return r_t k_i with the decay strictly between i and t, (c, P c), by recursive halving."""
    size = r.shape[0]
    t, _ = _tokens(size, r.shape[1])
    row, column = _tokens(size, heads.sizes.pack * size)
    scores = jnp.zeros(row.shape, jnp.float32)
    for shift in range(len(between) + 1):
        x = jnp.where((t >> shift) & 1 == 1, r, k)
        if shift > 0:
            x = x * jnp.exp(between[shift - 1])
        below = ((row >> shift) & 1 == 1) & (column >> shift == (row >> shift) - 1)
        scores = jnp.where(below, heads.dot(x, heads.spread(x), (1, 1)), scores)
    return scores
