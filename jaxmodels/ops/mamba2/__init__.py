"""Mamba-2 mixer between its projections: XLA, one-loop XLA for TPU, and Pallas TPU.

    x, b, c = silu(conv(xbc)) ;  delta = softplus(dl + dt_bias)
    h_t = exp(delta_t A) h_{t-1} + b_t (delta_t x_t)^T ;  y = c^T h + D x
    read_out(RMSNorm(y silu(z)) norm_scale)

Source: arXiv 2405.21060. Shapes: B batch, T time, D inner width, H heads, G groups, N state size,
K taps, E = D + 2 G N.
"""

import jax

from jaxmodels.errors import UserError
from jaxmodels.ops.common.dispatch import select_implementation
from jaxmodels.ops.mamba2 import pallas, tpu_loop, xla
from jaxmodels.ops.mamba2.vectors import MixerVectors, step_sizes

__all__ = ["MixerVectors", "mamba2_mixer", "step_sizes"]


def mamba2_mixer(
    state, inputs, vectors, read_out, reset=None, write=None, *, implementation="auto", **options
):
    """Run the mixer over (B, T, ...).

    Args:
      state: (the last inputs of the convolution (B, K - 1, E), SSM state (B, G, N, D / G)).
      inputs: outputs of in_proj: z (B, T, D), xbc (B, T, E), raw step sizes (B, T, H). For "pallas"
        xbc is two arrays, x (B, T, D) and bc (B, T, 2 N), to avoid copies by a split.
      vectors: `MixerVectors`, the parameters between the projections.
      read_out: out_proj, a function of (B, T, D). "xla" recomputes its input for the backward pass.
      reset: bool (B, T) or None.
      write: float (B, T) in [0, 1] or None, a factor on the step sizes.
      implementation: "auto" ("xla" on a CPU, "xla_loop" elsewhere if supported), "xla", "xla_loop"
        (G = norm_groups = 1, no `write`) or "pallas" (G = 1, at most 7 taps).
      options: chunk_size (at most 256); norm_groups and norm_eps of the norm; dtype, to which the
        inputs of the matmuls of b, c, x and states are rounded.

    Returns:
      (state after the last token, output of read_out).

    Raises:
      UserError: the implementation does not support the arguments.
    """
    grouped = max(state[1].shape[1], options["norm_groups"]) > 1
    if grouped and implementation == "xla_loop":
        raise UserError('implementation="xla_loop" needs groups and norm_groups 1')
    if implementation == "pallas" and state[1].shape[1] > 1:
        raise UserError('implementation="pallas" needs groups 1')
    if write is not None and implementation == "xla_loop":
        raise UserError('implementation="xla_loop" takes no `write`')
    if implementation == "auto" and (grouped or write is not None):
        implementation = "xla"
    mix = select_implementation(
        implementation, auto=_by_platform, xla=xla.mix, xla_loop=tpu_loop.mix, pallas=pallas.mix
    )
    return mix(state, inputs, vectors, read_out, reset, write, **options)


def _by_platform(state, inputs, vectors, read_out, reset, write, **options):
    def bind(mix):
        return lambda state, inputs: mix(state, inputs, vectors, read_out, reset, write, **options)

    return jax.lax.platform_dependent(state, inputs, cpu=bind(xla.mix), default=bind(tpu_loop.mix))
