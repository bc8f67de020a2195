"""State-space duality of Mamba-2, with a per-head scalar decay, token by token and chunked.

    h_t = exp(delta_t a) h_{t-1} + b_t (delta_t x_t)^T ;   y_t = c_t^T h_t

Source: arXiv 2405.21060, state-spaces/mamba (ssd_minimal). b and c are shared by the heads of a
group; the state (B, G, N, D) concatenates a group's heads, so that reading and writing it take one
matmul per group. Shapes: B batch, T time, H heads, P head size, G groups, D = H P / G, N state
size, c chunk size, n chunks.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.broadcast import broadcast_to_last_axis
from jaxmodels.ops.common.chunks import (
    from_chunks,
    masked_exp,
    name_boundary_states,
    same_segment,
    segment_ids,
    to_chunks,
)
from jaxmodels.ops.common.precision import EXACT, precision_of
from jaxmodels.ops.common.varying import cast_alike, zeros_like

LEAST = -128.0  # clamp of log decays; exp is 0 in float32 below
GRAIN = 2.0**-8  # multiples of it up to 256 * 128 are exact in float32


def ssd_step(state, x, delta, a, b, c, d):
    """Read one token.

    Args:
      state: (B, G, N, D).
      x: (B, H P).
      delta: (B, H), >= 0.
      a: (H,), negative.
      b, c: (B, G N).
      d: (H,), weight of the skip connection from x to y.

    Returns:
      (state, y (B, H P)).
    """
    x, b, c = _split_heads(state, x, delta, b, c)
    written = (delta[..., None] * x).reshape(*b.shape[:2], 1, -1)
    state = _broadcast_to_channels(jnp.exp(delta * a[None]), state) * state + b[..., None] * written
    y = jnp.einsum("bgn,bgnd->bgd", c, state, precision=EXACT)
    return state, _add_skip(y.reshape(x.shape), x, d)


def ssd_chunked(state, x, delta, a, b, c, d, reset=None, *, chunk_size=64, dtype=jnp.float32):
    """Run in chunks of matmuls, in XLA; see `ops.ssd.ssd`.

    The custom backward pass stores only the states at chunk boundaries.
    """
    batch, time = x.shape[:2]
    size = min(chunk_size, time)
    x, b, c = _split_heads(state, x, delta, b, c)
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    # Heads and groups before time, as the matmuls want them.
    tokens = tuple(to_chunks(z, size).swapaxes(2, 3) for z in (x, delta, b, c))
    arguments = cast_alike(state, a, tokens, to_chunks(reset, size))
    state, y = _scan(jnp.dtype(dtype), *arguments)
    return state, _add_skip(from_chunks(y.swapaxes(2, 3), time), x, d)


def _split_heads(state, x, delta, b, c):
    """Reshape x (..., H P) to (..., H, P), and b, c (..., G N) to (..., G, N)."""
    lead, groups = x.shape[:-1], state.shape[1]
    b, c = (z.reshape(*lead, groups, -1) for z in (b, c))
    return x.reshape(*lead, delta.shape[-1], -1), b, c


def _add_skip(y, x, d):
    """Return y + d x of y, x (..., H, P) as (..., H P)."""
    y = y + x * broadcast_to_last_axis(d, x[..., 0])[..., None]
    return y.reshape(*y.shape[:-2], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(dtype, state, a, tokens, reset):
    """Scan tokens x (n, B, H, c, P), delta (n, B, H, c), b, c (n, B, G, c, N); reset (n, B, c)."""
    return _forward(dtype, state, a, tokens, reset)[0]


def _forward(dtype, state, a, tokens, reset):
    dot = functools.partial(_product, dtype)

    def chunk(state, inputs):
        (x, delta, b, c), reset = inputs
        state = _reset_state(reset[:, 0], state)
        d = _decays(a, delta, reset)
        scores = dot("bgtn,bgin->bgti", c, b)
        written = delta[..., None] * x
        y = dot("bhti,bhip->bhtp", _weight_by_head(scores, d.pairs), written)
        read = dot("bgtn,bgnd->bgtd", c, state)
        y = y + jnp.where(d.first, d.entered[..., None] * _to_heads(read, y), 0.0)
        leaving = _to_groups(d.leaving[..., None] * written, state)
        new = dot("bgin,bgid->bgnd", b, leaving)
        kept = jnp.where(d.carried, _broadcast_to_channels(d.keep, state) * state, 0.0)
        return new + kept, (y, state)

    state, (y, boundaries) = jax.lax.scan(chunk, state, (tokens, reset))
    return (state, y), (a, tokens, reset, name_boundary_states(boundaries))


def _backward(dtype, saved, cotangents):
    a, tokens, reset, boundaries = saved
    dot = functools.partial(_product, dtype)

    def chunk(carry, inputs):
        d_state, d_a = carry
        (x, delta, b, c), reset, state, d_y = inputs
        d = _decays(a, delta, reset)
        scores = dot("bgtn,bgin->bgti", c, b)
        written = delta[..., None] * x
        pairs = _weight_by_head(scores, d.pairs)

        # Inside the chunk.
        d_written = dot("bhti,bhtp->bhip", pairs, d_y)
        d_pairs = dot("bhtp,bhip->bhti", d_y, written)
        d_scores = _sum(
            d_pairs.reshape(*b.shape[:2], -1, *d_pairs.shape[2:]) * _groups(d.pairs, b), 2
        )
        flow = d_pairs * pairs  # gradient of the exponents
        d_sums = jnp.sum(flow, 3) - jnp.sum(flow, 2)
        d_c = dot("bgti,bgin->bgtn", d_scores, b)
        d_b = dot("bgti,bgtn->bgin", d_scores, c)

        # Read of the entering state.
        d_read = _to_groups(d.entered[..., None] * d_y, state)
        d_c = d_c + dot("bgtd,bgnd->bgtn", d_read, state)
        before = dot("bgtn,bgtd->bgnd", c, d_read)
        read = dot("bgtn,bgnd->bgtd", c, state)
        d_sums = d_sums + jnp.where(
            d.first[..., 0], _sum_over_head_channels(d_read * read, d_sums), 0.0
        )

        # Write to the leaving state.
        leaving = _to_groups(d.leaving[..., None] * written, state)
        d_b = d_b + dot("bgid,bgnd->bgin", leaving, d_state)
        d_leaving = dot("bgin,bgnd->bgid", b, d_state)
        d_written = d_written + d.leaving[..., None] * _to_heads(d_leaving, x)
        d_exponents = _sum_over_head_channels(leaving * d_leaving, d_sums)
        d_keep = d.keep * _sum_over_channels(_sum(d_state * state, 2), d.keep)
        d_keep = jnp.where(d.carried[:, 0, 0], d_keep, 0.0)
        kept = jnp.where(d.carried, _broadcast_to_channels(d.keep, state) * d_state, 0.0)
        d_end = jnp.sum(d_exponents, 2) + d_keep
        d_sums = (d_sums - d_exponents).at[..., -1].add(d_end)

        d_log = jnp.where(
            delta * a[None, :, None] > LEAST, _segment_cumsum(d.visible, d_sums, back=True), 0.0
        )
        d_delta = d_log * a[None, :, None] + jnp.sum(d_written * x, 3)
        d_a = d_a + jnp.sum(d_log * delta, (0, 2))
        d_tokens = (d_written * delta[..., None], d_delta, d_b, d_c)
        return (_reset_state(reset[:, 0], before + kept), d_a), d_tokens

    d_state, d_y = cotangents
    inputs = (tokens, reset, boundaries, d_y)
    carry, d_tokens = jax.lax.scan(chunk, (d_state, zeros_like(a)), inputs, reverse=True)
    return *carry, d_tokens, None


_scan.defvjp(_forward, _backward)


class _Decays(NamedTuple):
    """Decays within a chunk.

    pairs (B, H, c, c), from token i to token t; entered (B, H, c), from the chunk's start to t, 0
    in later documents; leaving (B, H, c), from i to the chunk's end, 0 in earlier documents;
    keep (B, H), of the whole chunk; visible (B, c, c), who reads whom; first (B, 1, c, 1), no
    document has started; carried (B, 1, 1, 1), none has in the whole chunk.
    """

    pairs: jax.Array
    entered: jax.Array
    leaving: jax.Array
    keep: jax.Array
    visible: jax.Array
    first: jax.Array
    carried: jax.Array


def _decays(a, delta, reset):
    """Compute decays of a (H,), delta (B, H, c), reset (B, c), whose first token is ignored."""
    ids = segment_ids(reset.at[:, 0].set(False))
    visible = same_segment(ids)
    log = jnp.maximum(delta * a[None, :, None], LEAST)
    # A difference of cumulative sums loses the digits of a small decay after a large one. So
    # multiples of GRAIN are summed separately: their sums and differences are exact.
    coarse = jnp.round(log / GRAIN) * GRAIN
    sums = [_segment_cumsum(visible, part) for part in (coarse, log - coarse)]
    first, last = ids == 0, ids == ids[:, -1:]
    entered = masked_exp(sums[0] + sums[1], first[:, None])
    return _Decays(
        pairs=masked_exp(sum(s[..., :, None] - s[..., None, :] for s in sums), visible[:, None]),
        entered=entered,
        leaving=masked_exp(sum(s[..., -1:] - s for s in sums), last[:, None]),
        keep=entered[..., -1],
        visible=visible,
        first=first[:, None, :, None],
        carried=first[:, -1, None, None, None],
    )


def _segment_cumsum(visible, z, back=False):
    """Compute cumulative sums of z (B, H, c) within segments; `back`: from the end."""
    pattern = "bti,bht->bhi" if back else "bti,bhi->bht"
    return jnp.einsum(pattern, visible.astype(z.dtype), z, precision=EXACT)


def _product(dtype, pattern, x, y):
    """Return `einsum` of x and y, rounded to `dtype`, in float32."""

    def narrow(x, y):
        options = {"precision": precision_of(dtype), "preferred_element_type": jnp.float32}
        return jnp.einsum(pattern, x, y, **options)

    def wide(x, y):  # XLA:CPU lacks some bfloat16 matmuls
        return jnp.einsum(pattern, *(z.astype(jnp.float32) for z in (x, y)), precision=EXACT)

    x, y = x.astype(dtype), y.astype(dtype)
    if dtype == jnp.float32:
        return narrow(x, y)
    return jax.lax.platform_dependent(x, y, cpu=wide, default=narrow)


def _reset_state(reset, state):
    """Clear the state, including NaN, where a document starts at the chunk's first token."""
    return jnp.where(reset[:, None, None, None], 0.0, state)


def _groups(z, b):
    """Reshape (B, H, ...) to (B, G, H / G, ...)."""
    return z.reshape(*b.shape[:2], -1, *z.shape[2:])


def _weight_by_head(scores, pairs):
    """Multiply scores (B, G, c, c) by pairs (B, H, c, c)."""
    return (scores[:, :, None] * _groups(pairs, scores)).reshape(pairs.shape)


def _to_groups(z, state):
    """Transpose (B, H, c, P) to (B, G, c, D)."""
    z = _groups(z, state).swapaxes(2, 3)
    return z.reshape(*z.shape[:3], -1)


def _to_heads(z, like):
    """Transpose (B, G, c, D) to (B, H, c, P), the shape of `like`."""
    z = z.reshape(*z.shape[:3], -1, like.shape[-1])
    return z.swapaxes(2, 3).reshape(like.shape)


def _sum_over_head_channels(z, like):
    """Sum (B, G, c, D) over each head's channels to (B, H, c), the shape of `like`."""
    batch, groups, size, _ = z.shape
    z = z.reshape(batch, groups, size, like.shape[1] // groups, -1).sum(-1)
    return z.swapaxes(2, 3).reshape(like.shape)


def _broadcast_to_channels(z, state):
    """Repeat per-head numbers (B, H) over the channels of a state: (B, G, 1, D)."""
    batch, groups, _, channels = state.shape
    z = z.reshape(batch, groups, -1, 1)
    return jnp.repeat(z, channels // z.shape[2], 3).reshape(batch, groups, 1, channels)


def _sum_over_channels(z, like):
    """Sum (B, G, D) over each head's channels to (B, H), the shape of `like`."""
    return z.reshape(*like.shape, -1).sum(-1)


def _sum(z, axis):
    """Sum over an axis; pairwise on a CPU, where that is many times faster."""

    def pairwise(z):
        while (length := z.shape[axis]) > 1:
            parts = jnp.split(z, [length // 2, length // 2 * 2], axis)
            z = parts[0] + parts[1]
            z = jnp.concatenate([z, parts[2]], axis) if length % 2 else z
        return z.squeeze(axis)

    return jax.lax.platform_dependent(
        z, cpu=pairwise, default=functools.partial(jnp.sum, axis=axis)
    )
