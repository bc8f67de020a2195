"""The selective state-space recurrence of Mamba-1, token by token and fast.

    h_t = exp(delta_t a) h_{t-1} + (delta_t x_t) b_t^T ;   y_t = h_t c_t

SYSTEMS 7.5, from state-spaces/mamba (selective_scan). Every pair of state index and channel decays
by itself, so no chunk form of matrix products exists; what can be saved is memory. The fast form
keeps the states at chunk borders only, computes those inside anew for the backward pass, and writes
out the reverse recurrence by hand. It never holds (B, T, N, D) for more than a chunk.

The state is (B, N, D): the channels come last, where vectors are long. Shapes: B batch, T time,
N state size, D channels, c chunk size, n chunks.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmodels.ops.chunks import from_chunks, to_chunks


def selective_scan_step(state, x, delta, a, b, c):
    """One token.

    Args:
      state: (B, N, D).
      x, delta: (B, D); delta >= 0.
      a: (N, D), negative.
      b, c: (B, N).

    Returns:
      (state, y (B, D)).
    """
    state = _kept(state, delta, a) + _written(x, delta, b)
    return state, jnp.sum(state * c[..., None], 1)


def selective_scan(state, x, delta, a, b, c, reset=None, *, chunk_size=16):
    """The same over (B, T, ...).

    Args:
      state: (B, N, D), before the first token.
      x, delta: (B, T, D).
      a: (N, D).
      b, c: (B, T, N).
      reset: bool (B, T) or None.
      chunk_size: tokens between states that are kept.

    Returns:
      (state after the last token, y (B, T, D)).
    """
    time = x.shape[1]
    size = min(chunk_size, time)
    x, delta, b, c = (_by_time(z, size) for z in (x, delta, b, c))
    reset = None if reset is None else _by_time(reset, size)
    state, y = _scan(state, a, (x, delta, b, c), reset)
    return state, from_chunks(y.swapaxes(1, 2), time)


def _by_time(z, size):
    """(B, T, ...) -> (n, c, B, ...). Padding has delta = 0: it neither decays nor writes."""
    return to_chunks(z, size).swapaxes(1, 2)


def _kept(h, delta, a):
    return jnp.exp(delta[:, None] * a[None]) * h


def _written(x, delta, b):
    return (delta * x)[:, None] * b[..., None]


def _before(h, reset):
    """The state that a token reads: none of another document."""
    return h if reset is None else jnp.where(reset[:, None, None], 0.0, h)


@jax.custom_vjp
def _scan(state, a, tokens, reset):
    """tokens: x, delta (n, c, B, D) and b, c (n, c, B, N) -> (state, y (n, c, B, D))."""
    return _forward(state, a, tokens, reset)[0]


def _forward(state, a, tokens, reset):
    def token(h, inputs):
        (x, delta, b, c), reset = inputs
        return selective_scan_step(_before(h, reset), x, delta, a, b, c)

    def chunk(h, inputs):
        after, y = _loop(token, h, inputs)
        return after, (y, h)

    state, (y, borders) = jax.lax.scan(chunk, state, (tokens, reset))
    return (state, y), (a, tokens, reset, borders)


def _backward(saved, cotangents):
    """g: the gradient of the state after a token, first as the later tokens see it."""
    a, tokens, reset, borders = saved
    d_state, d_y = cotangents

    def again(h, inputs):
        x, delta, b, reset = inputs
        kept = _kept(_before(h, reset), delta, a)
        return kept + _written(x, delta, b), kept

    def token(carry, inputs):
        g, d_a = carry
        (x, delta, b, c), reset, d_y, kept = inputs
        g = g + d_y[:, None] * c[..., None]
        d_decay = g * kept  # of the exponent, delta a
        d_written = jnp.sum(g * b[..., None], 1)
        d_delta = jnp.sum(d_decay * a[None], 1) + d_written * x
        d_b = jnp.sum(g * (delta * x)[:, None], 2)
        d_c = jnp.sum((kept + _written(x, delta, b)) * d_y[:, None], 2)
        d_a = d_a + jnp.sum(d_decay * delta[:, None], 0)
        return (_before(_kept(g, delta, a), reset), d_a), (d_written * delta, d_delta, d_b, d_c)

    def chunk(carry, inputs):
        (x, delta, b, c), reset, d_y, border = inputs
        _, kept = _loop(again, border, (x, delta, b, reset))
        return _loop(token, carry, ((x, delta, b, c), reset, d_y, kept), reverse=True)

    inputs = (tokens, reset, d_y, borders)
    carry, d_tokens = jax.lax.scan(chunk, (d_state, jnp.zeros_like(a)), inputs, reverse=True)
    return *carry, d_tokens, None


_scan.defvjp(_forward, _backward)


def _loop(body, carry, xs, *, reverse=False):
    """`lax.scan` over the tokens of a chunk; unrolled unless on a CPU.

    On a TPU the compiler then fuses neighbouring tokens, and the state passes through memory less
    often (half of the estimated cycles); on a CPU it would compute the same states several times.
    """
    scan = functools.partial(jax.lax.scan, body, reverse=reverse)
    unrolled = functools.partial(scan, unroll=True)
    return jax.lax.platform_dependent(carry, xs, cpu=scan, default=unrolled)
