"""Weighted average of RWKV-4, token by token and chunked, in float32.

    y_t = (sum_{i<t} e^{k_i - (t-1-i) w} v_i + e^{u + k_t} v_t) / (the same without the v)

Source: arXiv 2305.13048, BlinkDL's RWKV-LM (RWKV-v4neo). Numerator and denominator are stored as
p e^o and q e^o, so that no exponential exceeds 1. Shapes: B batch, T time, C width, c chunk size,
n chunks.

The exponent o is only a reference: the same state has other p, q with another o. So o has no
gradient, and p and q carry that of the sums. Nor does rounding of o matter, because exponents are
computed as (o - new o) - w: the rounding error of o - w, which at o = 60 exceeds 1 % of a decay of
1e-4, is compensated in the factor of p and q.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.chunks import from_chunks, segment_ids, to_chunks
from jaxmodels.ops.common.varying import cast_alike, zeros_like
from jaxmodels.ragged import hold_after, without

EMPTY = -1e38  # initial o; finite, because inf - inf is NaN


class WKV4State(NamedTuple):
    """Sums p e^o of weighted values and q e^o of weights; each (B, C) float32."""

    p: jax.Array
    q: jax.Array
    o: jax.Array


def wkv4_initial(*shape: int) -> WKV4State:
    """Return the state before the first token, arrays of this shape."""
    zeros = jnp.zeros(shape, jnp.float32)
    return WKV4State(zeros, zeros, jnp.full(shape, EMPTY, jnp.float32))


def wkv4_step(state: WKV4State, k, v, decay, bonus):
    """Read one token.

    Args:
      state: (B, C) arrays.
      k, v: (B, C).
      decay: (C,), w >= 0; weights decay by e^-w per token.
      bonus: (C,), u, added to the key of the current token.

    Returns:
      (state, y (B, C)).
    """
    return wkv4_token(state, k, v, decay[None], bonus[None])


def wkv4_chunked(state: WKV4State, k, v, decay, bonus, reset=None, lengths=None, *, chunk_size=64):
    """Run in chunks, in XLA; see `ops.wkv4.wkv4`.

    Each chunk's contribution to the state is a sum over its tokens. A scan over chunks accumulates
    them to the states that enter the chunks; then all chunks run in parallel, token by token. The
    backward pass stores only the state at each token. A CPU gains nothing from chunks.
    """
    time = k.shape[1]
    size = -(-time // -(-time // chunk_size))  # same number of chunks, but about equally full
    k, v = (to_chunks(x.astype(jnp.float32), size) for x in (k, v))  # (n, B, c, C)
    chunks = k.shape[0]
    if reset is not None:
        reset = to_chunks(reset, size)
    state = WKV4State(*(x.astype(jnp.float32) for x in state))
    entered = jax.tree.map(lambda x: x[None], state)
    real = None
    if lengths is not None:
        real = to_chunks(~hold_after(lengths, time), size)
    elif chunks * size != time:
        real = jnp.arange(chunks * size).reshape(chunks, 1, size) < time
    if chunks > 1:
        held = None if lengths is None else ~real
        before = (x if x is None else x[:-1] for x in (k, v, reset, held))
        entered = _chunk_states(state, *before, decay)

    tokens = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), (k, v, reset, real))
    vectors = (x.reshape(1, 1, -1) for x in (decay, bonus))
    left, y = _scan_chunks(*cast_alike(entered, tokens, *vectors))
    return jax.tree.map(lambda x: x[-1], left), from_chunks(jnp.moveaxis(y, 0, 2), time)


@jax.custom_vjp
def _scan_chunks(entered, tokens, decay, bonus):
    """Run all chunks in parallel, token by token.

    Args:
      entered: states (n, B, C), before each chunk.
      tokens: k, v (c, n, B, C), and bool or None, reset (c, n, B), real (c, n, B or 1): not
        padding.
      decay, bonus: (1, 1, C).

    Returns:
      (states (n, B, C) after each chunk, y (c, n, B, C)).
    """
    return _loop(entered, tokens, decay, bonus, keep=False)[:2]


def _loop(entered, tokens, decay, bonus, *, keep: bool):
    """Run `_scan_chunks`; with `keep`, also return the states (c, n, B, C) before each token."""
    # Barriers around the scan: otherwise XLA:TPU picks the consumer's layout for the stacked
    # outputs and transposes on every iteration.
    tokens = jax.lax.optimization_barrier(tokens)

    def token(state, inputs):
        k, v, reset, real = inputs
        after, y = wkv4_token(_apply_reset(state, reset), k, v, decay, bonus)
        after = after if real is None else _select(real[..., None], after, state)
        return after, (y, state if keep else ())

    left, (y, states) = jax.lax.scan(token, entered, tokens)
    return left, jax.lax.optimization_barrier(y), states


def _scan_chunks_forward(entered, tokens, decay, bonus):
    left, y, states = _loop(entered, tokens, decay, bonus, keep=True)
    return (left, y), (states, tokens, decay, bonus)


def _scan_chunks_backward(saved, cotangents):
    """Differentiate `_scan_chunks`; automatic differentiation takes six passes over the chunks."""
    states, tokens, decay, bonus = saved
    d_left, d_y = cotangents
    d_y = jax.lax.optimization_barrier(d_y)

    def token(carry, inputs):
        d_p, d_q, d_w, d_u = carry
        state, (k, v, reset, real), d_y = inputs
        state = _apply_reset(state, reset)
        gradients = wkv4_token_back(state, k, v, decay, bonus, d_y, (d_p, d_q))
        before, d_k, d_v, d_decay, d_bonus = gradients
        if reset is not None:
            before = _select(reset[..., None], (0.0, 0.0), before)
        if real is not None:
            real = real[..., None]
            before = _select(real, before, (d_p, d_q))
            d_k, d_v, d_decay, d_bonus = _select(real, (d_k, d_v, d_decay, d_bonus), (0.0,) * 4)
        return (*before, d_w + d_decay, d_u + d_bonus), (d_k, d_v)

    # Accumulate gradients of decay and bonus in the shape of the state, to avoid a sum per step.
    zeros = zeros_like(d_left.p)
    start = d_left.p, d_left.q, zeros, zeros
    inputs = states, tokens, d_y
    (d_p, d_q, d_w, d_u), d_tokens = jax.lax.scan(token, start, inputs, reverse=True)
    d_k, d_v = jax.lax.optimization_barrier(d_tokens)
    entered = WKV4State(d_p, d_q, zeros)
    return entered, (d_k, d_v, None, None), *(x.sum((0, 1), keepdims=True) for x in (d_w, d_u))


_scan_chunks.defvjp(_scan_chunks_forward, _scan_chunks_backward)


def _apply_reset(state, reset):
    return state if reset is None else _select(reset[..., None], wkv4_initial(1, 1, 1), state)


def wkv4_token(state, k, v, decay, bonus):
    """Read one token; arrays of any shapes that broadcast. See `wkv4_step`."""
    p, q, o = state
    k_now, o = k + bonus, jax.lax.stop_gradient(o)
    top = jnp.maximum(o, jax.lax.stop_gradient(k_now))
    old, now = jnp.exp(o - top), jnp.exp(k_now - top)
    y = (old * p + now * v) / (old * q + now)
    top = jax.lax.stop_gradient(jnp.maximum(o - decay, k))
    keep, new = jnp.exp((o - top) - decay), jnp.exp(k - top)
    return WKV4State(keep * p + new * v, keep * q + new, top), y


def wkv4_token_back(state, k, v, decay, bonus, d_y, d_after):
    """Differentiate `wkv4_token`, given the state before it and gradients of y and of p, q after.

    Returns:
      Gradients of ((p, q) before, k, v, decay, bonus), not summed over broadcast axes.
    """
    (p, q, o), (d_p, d_q) = state, d_after
    k_now, o = k + bonus, jax.lax.stop_gradient(o)
    # As in `wkv4_token`, exponents of reference are constants: a derivative of this function must
    # not see them either.
    top = jax.lax.stop_gradient(jnp.maximum(o, k_now))
    old, now = jnp.exp(o - top), jnp.exp(k_now - top)
    below = old * q + now
    y = (old * p + now * v) / below
    pull = d_y / below
    top = jax.lax.stop_gradient(jnp.maximum(o - decay, k))
    keep, new = jnp.exp((o - top) - decay), jnp.exp(k - top)
    d_bonus = now * pull * (v - y)
    d_k = new * (d_p * v + d_q) + d_bonus
    d_v = new * d_p + now * pull
    d_decay = -keep * (d_p * p + d_q * q)
    before = keep * d_p + old * pull, keep * d_q - old * pull * y
    return before, d_k, d_v, d_decay, d_bonus


def _chunk_states(state, k, v, reset, held, decay):
    """Return the states (n + 1, B, C) before each chunk of k, v (n, B, c, C) and after the last.

    reset, held: bool (n, B, c) or None; held tokens are padding at the end of a row.
    """
    size = k.shape[2]
    carried = empty = None
    age = jnp.arange(size - 1, -1, -1, dtype=jnp.float32)[None, None, :, None]
    whole = jnp.full((1, 1, 1), size, jnp.float32)
    if held is not None:
        k, v = without(held, (k, v))
        k = jnp.where(held[..., None], EMPTY, k)
        whole = jnp.sum(~held, 2, dtype=jnp.float32)[..., None]  # (n, B, 1)
        age = jnp.maximum(age - (size - whole)[..., None], 0.0)
        empty = whole == 0.0
    if reset is not None:
        ids = segment_ids(reset)
        last = (ids == ids[..., -1:])[..., None]  # tokens whose document continues after the chunk
        k, v = jnp.where(last, k, EMPTY), jnp.where(last, v, 0.0)
        carried = ids[..., -1:] == 0  # (n, B, 1)
    aged = age * decay.reshape(1, 1, 1, -1)
    top = jax.lax.stop_gradient(jnp.max(k - aged, 2, keepdims=True))
    weight = jnp.exp((k - top) - aged)
    added = WKV4State((weight * v).sum(2), weight.sum(2), top[:, :, 0])
    whole = jnp.broadcast_to(whole * decay.reshape(1, 1, -1), (k.shape[0], *state.o.shape))

    def chunk(state, parts):
        (p, q, o), (p_new, q_new, o_new), whole, carried, empty = state, *parts
        top = jax.lax.stop_gradient(jnp.maximum(o - whole, o_new))
        keep, new = jnp.exp((jax.lax.stop_gradient(o) - top) - whole), jnp.exp(o_new - top)
        after = WKV4State(keep * p + new * p_new, keep * q + new * q_new, top)
        if carried is not None:
            after = _select(carried, after, WKV4State(p_new, q_new, o_new))
        return after if empty is None else _select(empty, state, after), state

    last, before = jax.lax.scan(chunk, state, (added, whole, carried, empty))
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), before, last)


def _select(condition, yes, no):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), yes, no)
