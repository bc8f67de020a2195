"""Mamba-2 mixer by three Pallas TPU kernels: convolution, SSD and gated norm."""

import jax.numpy as jnp

from jaxmodels.ops.mamba2.vectors import step_sizes
from jaxmodels.ops.norms import pallas, xla
from jaxmodels.ops.short_conv import short_conv_silu
from jaxmodels.ops.ssd import ssd


def mix(
    state, inputs, vectors, read_out, reset, write, *, norm_groups, norm_eps, chunk_size, dtype
):
    """See `mamba2_mixer`; takes x and (b, c) as separate inputs."""
    (conv, memory), (z, x, bc, raw) = state, inputs
    width = x.shape[-1]
    convolved, states = [], []
    for part, at in ((x, slice(0, width)), (bc, slice(width, None))):
        taps, bias = vectors.conv_taps[at], vectors.conv_bias[at]
        last, part = short_conv_silu(
            conv[..., at], part, taps, bias, reset, implementation="pallas"
        )
        convolved.append(part)
        states.append(last)
    x, bc = convolved
    delta, a = step_sizes(raw, vectors.dt_bias, write), -jnp.exp(vectors.A_log)
    b, c = jnp.split(bc, 2, -1)
    options = {"chunk_size": chunk_size, "dtype": dtype, "implementation": "pallas"}
    memory, y = ssd(memory, x, delta, a, b, c, vectors.D, reset, **options)
    arguments = y, z, vectors.norm_scale, norm_eps, norm_groups
    if pallas.supports_groups(width, norm_groups):
        y = pallas.gated_rms_norm(*arguments, dtype)
    else:
        y = xla.gated_rms_norm(*arguments)
    return (jnp.concatenate(states, -1), memory), read_out(y)
