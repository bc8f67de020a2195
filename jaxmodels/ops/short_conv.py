"""The short causal convolution in front of a state-space model, one filter a channel.

    y_t = bias + sum_j taps[:, j] x_{t - K + 1 + j} ,  j = 0..K-1

SYSTEMS 7.5, 7.6 (K = 4), from state-spaces/mamba. Its state is the last K - 1 inputs. Inputs of
another document read as 0, by selection. Shapes: B batch, T time, D channels, K taps.
"""

import jax
import jax.numpy as jnp


def short_conv_step(state, x, taps, bias):
    """One token. state (B, K - 1, D), x (B, D), taps (D, K), bias (D,) -> (state, y (B, D))."""
    window = jnp.concatenate([state, x[:, None]], 1)
    return window[:, 1:], jnp.sum(window * taps.T[None], 1) + bias[None]


def short_conv(state, xs, taps, bias, reset=None):
    """The same over (B, T, D).

    Args:
      state: (B, K - 1, D), the inputs before the first token, the oldest first.
      xs: (B, T, D).
      taps: (D, K), the last for the token itself.
      bias: (D,).
      reset: bool (B, T) or None; a document starts at each True.

    Returns:
      (the last K - 1 inputs of the last token's document, zeros before it; y (B, T, D)).
    """
    time, size = xs.shape[1], taps.shape[1]
    padded = jnp.concatenate([state, xs], 1)
    y, rest = bias[None, None], []
    for back in range(size):
        x = padded[:, size - 1 - back : size - 1 - back + time]
        if back and reset is not None:
            same = _same_document(reset, back)[..., None]
            x = jnp.where(same, x, 0.0)
        y = y + x * taps[None, None, :, size - 1 - back]
        if back < size - 1:
            x = padded[:, -1 - back]
            if back and reset is not None:
                x = jnp.where(same[:, -1], x, 0.0)
            rest.append(x)
    return jnp.stack(rest[::-1], 1), y


def _same_document(reset: jax.Array, back: int) -> jax.Array:
    """bool (B, T): no document started since the token `back` tokens ago."""
    starts = jnp.pad(reset, [(0, 0), (back - 1, 0)])
    windows = [starts[:, i : i + reset.shape[1]] for i in range(back)]
    return ~jnp.stack(windows).any(0)
