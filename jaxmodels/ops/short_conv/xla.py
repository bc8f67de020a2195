"""Short causal depthwise convolution, as before the state-space models of Mamba.

    y_t = bias + sum_j taps[:, j] x_{t - K + 1 + j} ,  j = 0..K-1

The state is the last K - 1 inputs. Inputs of another document are replaced by 0. Shapes: B batch,
T time, D channels, K taps.
"""

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.varying import cast_alike
from jaxmodels.ops.common.xla_cpu import depend_on, materialize_rows


def short_conv_step(state, x, taps, bias):
    """Read one token: state (B, K - 1, D), x (B, D), taps (D, K), bias (D,) -> (state, y)."""
    window = jnp.concatenate([state, x[:, None]], 1)
    return window[:, 1:], jnp.sum(window * taps.T[None], 1) + bias[None]


def short_conv(state, xs, taps, bias, reset=None):
    """Convolve (B, T, D).

    Args:
      state: (B, K - 1, D), the inputs before the first token, oldest first.
      xs: (B, T, D).
      taps: (D, K), the last for the token itself.
      bias: (D,).
      reset: bool (B, T) or None; a document starts at each True.

    Returns:
      (the last K - 1 inputs, zeros where of an earlier document; y (B, T, D)).
    """
    padded = jnp.concatenate([state, xs], 1)
    last = []
    for back in reversed(range(taps.shape[1] - 1)):
        x = padded[:, -1 - back]
        if reset is not None:
            x = jnp.where(_seen(reset, back)[:, -1, None], x, 0.0)
        last.append(x)
    return jnp.stack(last, 1), _convolve(*cast_alike(padded, taps, bias, reset))


def state_after(state, xs, lengths, reset=None):
    """Return the state (B, K - 1, D) after the first `lengths`, int (B,), tokens of each row.

    Other arguments as in `short_conv`.
    """
    kept = state.shape[1]
    index = lengths[:, None] + jnp.arange(kept)[None]  # in state, then tokens
    last = jnp.take_along_axis(jnp.concatenate([state, xs], 1), index[..., None], 1)
    if reset is None:
        return last
    starts = jnp.cumsum(jnp.pad(reset, [(0, 0), (kept, 0)]).astype(jnp.int32), 1)
    end = jnp.take_along_axis(starts, (lengths + kept - 1)[:, None], 1)
    same = jnp.take_along_axis(starts, index, 1) == end
    return jnp.where(same[..., None], last, 0.0)


def _seen(reset, back):
    """Return bool (B, T): no document started within the last `back` tokens."""
    starts = jnp.pad(reset, [(0, 0), (max(back - 1, 0), 0)])
    windows = [starts[:, i : i + reset.shape[1]] for i in range(back)]
    return ~jnp.stack([jnp.zeros_like(reset), *windows]).any(0)


@jax.custom_vjp
def _convolve(padded, taps, bias, reset):
    """Convolve padded (B, K - 1 + T, D) with taps (D, K), bias (D,), reset (B, T) -> (B, T, D)."""
    return _forward(padded, taps, bias, reset)[0]


def _forward(padded, taps, bias, reset):
    saved = padded, taps, reset
    y, *taps = (z[None, None] for z in materialize_rows(bias, *taps.T[::-1]))
    for tap, x in zip(taps, _shifted(padded, taps, reset), strict=True):
        y = y + x * tap
    return y, saved


def _shifted(padded, taps, reset):
    """Yield the input shifted by 0, 1, ... K - 1 tokens, masked at document starts."""
    time = padded.shape[1] - len(taps) + 1
    reset, zero = depend_on((reset, jnp.zeros((), padded.dtype)), taps)
    for back in range(len(taps)):
        x = padded[:, len(taps) - 1 - back :][:, :time]
        if back and reset is not None:
            x = jnp.where(_seen(reset, back)[..., None], x, zero)
        yield x


def _backward(saved, g):
    """Convolve g in reverse, by slices of one padded array: sums of padded arrays are slow."""
    padded, taps, reset = saved
    taps = [z[None, None] for z in materialize_rows(*taps.T[::-1])]
    d_taps = [jnp.sum(g * x, (0, 1)) for x in _shifted(padded, taps, reset)]
    padding = [(0, 0), (len(taps) - 1, len(taps) - 1)]
    g_padded = jnp.pad(g, [*padding, (0, 0)])
    reset, zero = depend_on((reset, jnp.zeros((), g.dtype)), taps)
    d_padded = zero
    for back, tap in enumerate(taps):
        part = g_padded[:, back:][:, : padded.shape[1]]
        if back and reset is not None:
            mask = jnp.pad(_seen(reset, back), padding)[:, back:][:, : padded.shape[1]]
            part = jnp.where(mask[..., None], part, zero)
        d_padded = d_padded + part * tap
    return d_padded, jnp.stack(d_taps[::-1], 1), jnp.sum(g, (0, 1)), None


_convolve.defvjp(_forward, _backward)
