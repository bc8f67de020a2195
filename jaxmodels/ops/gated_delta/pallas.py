"""Gated delta rule as a Pallas TPU kernel, fused with the norms and the gate around it.

The algorithm is that of `chunked.py`, on one row and packs of heads; the kernel and its gradient
are built by `ops/head_kernels`. A state is (K, P V). As in RWKV-7's kernel, a TPU multiplies by
three bfloat16 passes (16 bits per factor); sums of log decays are float32.

Shapes: B batch, T time, H heads, K key size, V value size, c chunk size, P heads per pack, h heads
per block.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.pallas_tpu import aligned_chunk_size
from jaxmodels.ops.head_kernels.heads import sizes_of
from jaxmodels.ops.head_kernels.run import Kernel, run_kernel


def mix(state, tokens, gates, norm_scale, reset, chunk_size):
    """Run as a TPU kernel, interpreted on other platforms; see `gated_delta_mixer`."""
    heads, keys, values = state.shape[1:]
    chunk = aligned_chunk_size(chunk_size, tokens[0].shape[1])
    sizes, fill = sizes_of(chunk, heads, math.gcd(keys, values))
    scale = jnp.broadcast_to(norm_scale[None], (heads, values))
    kernel = Kernel("gated_delta", functools.partial(_chunk, keys, values), _decays, keeps=True)
    return run_kernel(kernel, sizes, fill, state, tokens, gates, scale, reset, values)


def _decays(masks, sums, numbers):
    """Return g, beta, and the decays from the chunk's start and to its end, all (c, h)."""
    g, beta = numbers
    entered = jnp.exp(jnp.where(masks.first, sums(masks.reads, g), -jnp.inf))
    leaving = jnp.exp(jnp.where(masks.last, sums(masks.follows, g), -jnp.inf))
    return g, beta, entered, leaving


def _chunk(keys, values, heads, state, tokens, numbers, scale, inverse):
    """Compute one chunk; tokens q, k (c, P K), v, z (c, P V). See `Kernel.body`."""
    q, k, v, z = tokens
    q = q * jax.lax.rsqrt(heads.head_sum(q * q) + 1e-6) * keys**-0.5
    k = k * jax.lax.rsqrt(heads.head_sum(k * k) + 1e-6)
    state, y, inverse = _recur(heads, state, q, k, v, numbers, inverse)
    y = y * jax.lax.rsqrt(heads.head_sum(y * y) / values + 1e-5) * scale
    return (state, y * (z / (1.0 + jnp.exp(-z)))), inverse


def _recur(heads, state, q, k, v, numbers, inverse):
    """Run the recurrence over the chunk; see `chunked.py`."""
    g, beta, entered, leaving = numbers
    masks, size = heads.masks, heads.sizes.chunk
    pack = heads.sizes.pack
    keys, values = q.shape[1] // pack, v.shape[1] // pack

    # Each pair's log decay is a sum of its own, which no rounding makes positive.
    after = jnp.where(masks.earlier, heads.wide(g, size), 0.0)
    decay = jnp.exp(jnp.where(masks.visible, heads.sums(masks.reads, after), -jnp.inf))
    k_rows = heads.spread(k)
    read = heads.dot(q, k_rows, (1, 1)) * decay
    delta = jnp.where(masks.earlier, heads.dot(k, k_rows, (1, 1)) * decay, 0.0)
    delta = -heads.wide(beta, size) * delta
    if inverse is None:
        inverse = heads.inverse(jax.lax.stop_gradient(delta))
    whole = heads.spread(state)
    start = heads.wide(entered, values)
    error = v - jnp.where(masks.first, start * heads.dot(k, heads.sound(whole)), 0.0)
    u = heads.solved(inverse, delta, heads.wide(beta, values) * error)
    y = heads.dot(read, heads.spread(u))
    y = y + jnp.where(masks.first, start * heads.dot(q, whole), 0.0)
    written = heads.compact(heads.dot(k * heads.wide(leaving, keys), u, (0, 0)))
    state = jnp.where(masks.carried, start[size - 1 :] * state, 0.0) + written
    return state, y, inverse
