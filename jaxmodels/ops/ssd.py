"""The state-space duality of Mamba-2: a scalar decay a head, token by token and in chunks.

    h_t = exp(delta_t a) h_{t-1} + b_t (delta_t x_t)^T ;   y_t = c_t^T h_t

SYSTEMS 7.6, from state-spaces/mamba (ssd_minimal) and arXiv 2405.21060. b and c are shared by the
heads of a group; the state is (B, G, N, D), what a group's heads hold side by side, so that reading
and writing it are one matrix product a group. Shapes: B batch, T time, H heads, P head size,
G groups, D = H P / G, N state size, c chunk size, n chunks.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmodels.ops.chunks import from_chunks, same_segment, segment_cumsum, segment_ids, to_chunks

LEAST = -128.0  # log decays below do not differ: exp of either is 0 in float32
GRAIN = 2.0**-8  # multiples of it up to 256 * 128 are exact in float32


def ssd_step(state, x, delta, a, b, c):
    """One token.

    Args:
      state: (B, G, N, D).
      x: (B, H, P).
      delta: (B, H), >= 0.
      a: (H,), negative.
      b, c: (B, G, N).

    Returns:
      (state, y (B, H, P)).
    """
    written = (delta[..., None] * x).reshape(*state.shape[:2], 1, -1)
    keep = _to_channels(jnp.exp(delta * a[None]), state)
    state = keep * state + b[..., None] * written
    return state, jnp.sum(c[..., None] * state, 2).reshape(x.shape)


def ssd_chunked(state, x, delta, a, b, c, reset=None, *, chunk_size=64, dtype=jnp.float32):
    """The same over (B, T, ...), `chunk_size` tokens at a time, by matrix products.

    Args:
      state: (B, G, N, D), before the first token.
      x: (B, T, H, P).
      delta: (B, T, H).
      a: (H,).
      b, c: (B, T, G, N).
      reset: bool (B, T) or None.
      chunk_size: at most 256.
      dtype: what the inputs of the products are rounded to; decays and states are float32.

    Returns:
      (state after the last token, y (B, T, H, P) float32).
    """
    batch, time = x.shape[:2]
    size = min(chunk_size, time)
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    chunks = tuple(to_chunks(z, size) for z in (x, delta, b, c, reset))
    chunk = jax.checkpoint(functools.partial(_chunk, a, dtype))
    state, y = jax.lax.scan(chunk, state, chunks)
    return state, from_chunks(y, time)


def _chunk(a, dtype, state, tokens):
    """state (B, G, N, D); tokens: x (B, c, H, P), delta (B, c, H), b, c (B, c, G, N), reset."""
    x, delta, b, c, reset = tokens
    heads, groups = delta.shape[-1], b.shape[-2]
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    b, c = b.astype(dtype), c.astype(dtype)
    state = jnp.where(reset[:, 0, None, None, None], 0.0, state)  # no NaN gets further
    ids = segment_ids(reset.at[:, 0].set(False))
    first, last = ids == 0, ids == ids[:, -1:]
    visible = same_segment(ids)

    sums = _exact_sums(jnp.maximum(delta * a[None, None], LEAST), visible)  # (B, H, c) each
    pairs = _exp(sum(s[..., :, None] - s[..., None, :] for s in sums), visible[:, None])
    entered = jnp.exp(sum(sums))  # from the start of the chunk, or of the document
    to_end = _exp(sum(s[..., -1:] - s for s in sums), last[:, None])

    written = delta[..., None] * x
    scores = dot("btgn,bign->bgti", c, b)[:, :, None]
    scores = _spread(scores, 2, heads // groups) * _by_group(pairs, groups)
    scores = scores.reshape(pairs.shape).astype(dtype)
    y = dot("bhti,bihp->bthp", scores, written.astype(dtype))
    read = dot("btgn,bgnd->btgd", c, state.astype(dtype)).reshape(y.shape)
    read = read * entered.swapaxes(1, 2)[..., None]
    y = y + jnp.where(first[..., None, None], read, 0.0)

    leaving = (written * to_end.swapaxes(1, 2)[..., None]).astype(dtype)
    new = dot("bign,bigd->bgnd", b, leaving.reshape(*b.shape[:3], -1))
    keep = _spread(_to_channels(entered[..., -1], state), 2, state.shape[2])
    return new + jnp.where(first[:, -1, None, None, None], keep * state, 0.0), y


def _by_group(z, groups):
    """(B, H, ...) -> (B, G, H / G, ...)."""
    return z.reshape(z.shape[0], groups, -1, *z.shape[2:])


def _to_channels(z, state):
    """A number a head, (B, H), for every channel of a state: (B, G, 1, D)."""
    batch, groups, _, channels = state.shape
    z = z.reshape(batch, groups, -1, 1)
    return jnp.repeat(z, channels // z.shape[2], 3).reshape(batch, groups, 1, channels)


def _exact_sums(log_decay, visible):
    """Two parts of the cumulative sums within segments: (B, c, H) -> 2 x (B, H, c).

    Of a cumulative sum of large decays a difference would keep few digits of a small one. So the
    sums of multiples of GRAIN are kept apart: they and their differences are exact.
    """
    coarse = jax.lax.stop_gradient(jnp.round(log_decay / GRAIN) * GRAIN)
    parts = (coarse, log_decay - coarse)
    return [segment_cumsum(part, visible).swapaxes(1, 2) for part in parts]


def _exp(exponent, mask):
    """exp where `mask`, else 0; rounding must not make an exponent positive."""
    exponent = jnp.where(exponent > 0.0, 0.0, exponent)
    return jnp.exp(jnp.where(mask, exponent, -jnp.inf))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _spread(x, axis, size):
    """Repeats an axis of length 1. Its gradient is a sum in pairs, which a CPU does far faster."""
    return jnp.broadcast_to(x, (*x.shape[:axis], size, *x.shape[axis + 1 :]))


def _spread_forward(x, axis, size):
    return _spread(x, axis, size), None


def _spread_backward(axis, size, _, g):
    def pairwise(g):
        while (length := g.shape[axis]) > 1:
            half = length // 2
            parts = jnp.split(g, [half, 2 * half], axis)
            g = parts[0] + parts[1]
            if length % 2:
                g = jnp.concatenate([g, parts[2]], axis)
        return g

    plain = functools.partial(jnp.sum, axis=axis, keepdims=True)
    return (jax.lax.platform_dependent(g, cpu=pairwise, default=plain),)


_spread.defvjp(_spread_forward, _spread_backward)
