"""Parameters and step sizes of the Mamba-2 mixer."""

from typing import NamedTuple

import jax

from jaxmodels.ops.common.broadcast import broadcast_to_last_axis


class MixerVectors(NamedTuple):
    """Parameters: conv_taps (E, K), conv_bias (E,), dt_bias, A_log, D (H,), norm_scale (D,)."""

    conv_taps: jax.Array
    conv_bias: jax.Array
    dt_bias: jax.Array
    A_log: jax.Array
    D: jax.Array
    norm_scale: jax.Array


def step_sizes(raw: jax.Array, dt_bias: jax.Array, write: jax.Array | None = None) -> jax.Array:
    """Return delta (..., H) from raw step sizes (..., H), times `write` (...) if given."""
    delta = jax.nn.softplus(raw + broadcast_to_last_axis(dt_bias, raw))
    return delta if write is None else delta * write[..., None]
