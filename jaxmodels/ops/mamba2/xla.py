"""Mamba-2 mixer as separate convolution, SSD and gated norm in XLA, the default on CPU."""

import jax.numpy as jnp

from jaxmodels.ops.common.chunks import recompute_inside
from jaxmodels.ops.mamba2.vectors import step_sizes
from jaxmodels.ops.norms import gated_rms_norm
from jaxmodels.ops.short_conv import short_conv_silu
from jaxmodels.ops.ssd import ssd


def mix(
    state, inputs, vectors, read_out, reset, write, *, norm_groups, norm_eps, chunk_size, dtype
):
    """See `mamba2_mixer`.

    Rematerializes everything except the matmuls and the states at chunk boundaries: storing it
    would cost more than recomputing it.
    """
    z, xbc, raw = inputs
    width, shared = z.shape[-1], (xbc.shape[-1] - z.shape[-1]) // 2

    def recur(state, xbc, raw, write):
        conv, memory = state
        conv, xbc = short_conv_silu(conv, xbc, vectors.conv_taps, vectors.conv_bias, reset)
        x, b, c = jnp.split(xbc, [width, width + shared], -1)
        delta, a = step_sizes(raw, vectors.dt_bias, write), -jnp.exp(vectors.A_log)
        memory, y = ssd(
            memory, x, delta, a, b, c, vectors.D, reset, chunk_size=chunk_size, dtype=dtype
        )
        return (conv, memory), y

    def read(y, z):
        return read_out(gated_rms_norm(y, z, vectors.norm_scale, norm_eps, groups=norm_groups))

    state, y = recompute_inside(recur)(state, xbc, raw, write)
    return state, recompute_inside(read)(y, z)
