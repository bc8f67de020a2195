"""Selective state-space recurrence of Mamba-1, token by token and chunked.

    h_t = exp(delta_t a) h_{t-1} + (delta_t x_t) b_t^T ;   y_t = h_t c_t

Source: arXiv 2312.00752, state-spaces/mamba (selective_scan). Every pair of state index and channel
has its own decay, so there is no matmul formulation. The chunked implementation saves memory
traffic: it stores only the states at chunk boundaries, recomputes those inside for a custom
backward pass, and holds (B, T, N, D) for at most one chunk.

The state is (B, N, D), channels last for vectorization. Shapes: B batch, T time, N state size,
D channels, c chunk size, n chunks.
"""

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.chunks import from_chunks, name_boundary_states, to_chunks
from jaxmodels.ops.common.varying import cast_alike, zeros_like


def selective_scan_step(state, x, delta, a, b, c):
    """Read one token.

    Args:
      state: (B, N, D).
      x, delta: (B, D); delta >= 0.
      a: (N, D), negative.
      b, c: (B, N).

    Returns:
      (state, y (B, D)).
    """
    state = _kept(state, delta, a, None) + _written(x, delta, b)
    return state, jnp.sum(state * c[..., None], 1)


def selective_scan_chunked(state, x, delta, a, b, c, reset=None, *, chunk_size=16):
    """Run `selective_scan_step` over time, in chunks; see `ops.selective_scan`."""
    time = x.shape[1]
    size = min(chunk_size, time)
    x, delta, b, c = (_by_time(z, size) for z in (x, delta, b, c))
    reset = None if reset is None else _by_time(reset, size)
    state, y = _scan(*cast_alike(state, a, (x, delta, b, c), reset))
    return state, from_chunks(y.swapaxes(1, 2), time)


def _by_time(z, size):
    """Reshape (B, T, ...) to (n, c, B, ...); padding has delta = 0, so it changes no state."""
    return to_chunks(z, size).swapaxes(1, 2)


def _kept(h, delta, a, reset):
    """Return the decayed previous state, 0 at a reset."""
    h = h if reset is None else jnp.where(reset[:, None, None], 0.0, h)
    return jnp.exp(delta[:, None] * a[None]) * h


def _written(x, delta, b):
    return (delta * x)[:, None] * b[..., None]


@jax.custom_vjp
def _scan(state, a, tokens, reset):
    """Scan tokens, x, delta (n, c, B, D) and b, c (n, c, B, N) -> (state, y (n, c, B, D))."""
    return _forward(state, a, tokens, reset)[0]


def _forward(state, a, tokens, reset):
    def chunk(h, inputs):
        run = {"cpu": _read_in_turn, "default": _read_at_once}
        after, y = jax.lax.platform_dependent(a, h, *inputs, **run)
        return after, (y, h)

    state, (y, boundaries) = jax.lax.scan(chunk, state, (tokens, reset))
    return (state, y), (a, tokens, reset, name_boundary_states(boundaries))


def _backward(saved, cotangents):
    a, tokens, reset, boundaries = saved
    d_state, d_y = cotangents

    def chunk(carry, inputs):
        run = {"cpu": _back_in_turn, "default": _back_at_once}
        return jax.lax.platform_dependent(a, carry, *inputs, **run)

    inputs = (tokens, reset, boundaries, d_y)
    carry = (d_state, zeros_like(d_state))
    (d_state, d_a), d_tokens = jax.lax.scan(chunk, carry, inputs, reverse=True)
    return d_state, d_a.sum(0), d_tokens, None


_scan.defvjp(_forward, _backward)

# Two implementations of a chunk. "In turn" loops over the tokens; every step passes the state
# through memory, which is cheap in a CPU's cache. "At once" is unrolled, with all sums over an axis
# in a single reduction, so that XLA:TPU fuses the chunk into one loop over the state; the backward
# pass takes three such loops, each of which recomputes the states.


def _read_in_turn(a, h, tokens, reset):
    def token(h, inputs):
        (x, delta, b, c), reset = inputs
        h = _kept(h, delta, a, reset) + _written(x, delta, b)
        return h, jnp.sum(h * c[..., None], 1)

    return jax.lax.scan(token, h, (tokens, reset))


def _back_in_turn(a, carry, tokens, reset, h, d_y):
    """Differentiate a chunk; carry: gradients of the state after it, and of a per batch row."""

    def again(h, inputs):
        (x, delta, b, _), reset = inputs
        kept = _kept(h, delta, a, reset)
        return kept + _written(x, delta, b), kept

    def token(carry, inputs):
        g, d_a = carry
        (x, delta, b, c), reset, kept, d_y = inputs
        g = g + d_y[:, None] * c[..., None]
        d_decay = g * kept  # of the exponent, delta a
        d_written = jnp.sum(g * b[..., None], 1)
        d_delta = jnp.sum(d_decay * a[None], 1) + d_written * x
        d_b = jnp.sum(g * (delta * x)[:, None], 2)
        d_c = jnp.sum((kept + _written(x, delta, b)) * d_y[:, None], 2)
        d_a = d_a + d_decay * delta[:, None]
        return (_passed_on(g, delta, a, reset), d_a), (d_written * delta, d_delta, d_b, d_c)

    _, kept = jax.lax.scan(again, h, (tokens, reset))
    return jax.lax.scan(token, carry, (tokens, reset, kept, d_y), reverse=True)


def _passed_on(g, delta, a, reset):
    g = jnp.exp(delta[:, None] * a[None]) * g
    return g if reset is None else jnp.where(reset[:, None, None], 0.0, g)


def _read_at_once(a, h, tokens, reset):
    _, states = _states(a, h, tokens, reset)
    y = _sums([h * c[..., None] for h, c in zip(states, tokens[3], strict=True)], 1)
    return states[-1], _stack(y)


def _back_at_once(a, carry, tokens, reset, h, d_y):
    g, d_a = carry
    kept, states = _states(a, h, tokens, reset)
    x, delta, b, c = ([*z] for z in tokens)
    reset = [None] * len(x) if reset is None else [*reset]
    gradients = []
    for t in reversed(range(len(x))):
        g = g + d_y[t][:, None] * c[t][..., None]
        gradients.append(g)
        g = _passed_on(g, delta[t], a, reset[t])
    gradients.reverse()
    d_decay = [g * k for g, k in zip(gradients, kept, strict=True)]
    d_a = d_a + sum(d * s[:, None] for d, s in zip(d_decay, delta, strict=True))
    terms = [d * a[None] for d in d_decay]
    terms += [g * b[..., None] for g, b in zip(gradients, b, strict=True)]
    sums = _sums(terms, 1)
    d_delta, d_written = _stack(sums[: len(x)]), _stack(sums[len(x) :])
    terms = [g * (s * x)[:, None] for g, s, x in zip(gradients, delta, x, strict=True)]
    terms += [h * d[:, None] for h, d in zip(states, d_y, strict=True)]
    sums = _sums(terms, 2)
    d_b, d_c = _stack(sums[: len(x)]), _stack(sums[len(x) :])
    x, delta, _, _ = tokens
    return (g, d_a), (d_written * delta, d_delta + d_written * x, d_b, d_c)


def _states(a, h, tokens, reset):
    """Return the decayed previous state and the state after each token."""
    kept, states = [], []
    for t, (x, delta, b, _) in enumerate(zip(*tokens, strict=True)):
        kept.append(_kept(h, delta, a, None if reset is None else reset[t]))
        h = kept[-1] + _written(x, delta, b)
        states.append(h)
    return kept, states


def _sums(terms, axis):
    """Sum each term over an axis, in one variadic reduction."""
    zeros = (jnp.zeros((), terms[0].dtype),) * len(terms)

    def add(left, right):
        return tuple(x + y for x, y in zip(left, right, strict=True))

    return jax.lax.reduce(tuple(terms), zeros, add, (axis,))


def _stack(terms):
    """Stack by selection, which fuses into one operation; a concatenation takes one per term."""
    index = jnp.arange(len(terms)).reshape(-1, *(1,) * terms[0].ndim)
    stacked = terms[0][None]
    for place, term in enumerate(terms[1:], 1):
        stacked = jnp.where(index == place, term[None], stacked)
    return stacked
