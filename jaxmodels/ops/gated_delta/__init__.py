"""Gated delta rule: one step, chunked XLA, and Pallas TPU with the norms and the gate around it."""

from jaxmodels.ops.common.dispatch import select_implementation
from jaxmodels.ops.gated_delta import pallas, xla
from jaxmodels.ops.gated_delta.chunked import gated_delta_chunked, gated_delta_step
from jaxmodels.ops.gated_delta.xla import unit

__all__ = ["gated_delta_chunked", "gated_delta_mixer", "gated_delta_step", "unit"]


def gated_delta_mixer(
    state, tokens, gates, norm_scale, reset=None, *, chunk_size=64, implementation="auto"
):
    """Run the recurrence on normalized queries and keys; normalize and gate what is read.

        y = RMSNorm(gated_delta(q / (|q| sqrt(K)), k / |k|, v, g, beta)) norm_scale silu(z)

    Args:
      state: (B, H, K, V), before the first token.
      tokens: q, k (B, T, H K), v, z (B, T, H V).
      gates: g, beta, see `gated_delta_chunked`; (B, T, H).
      norm_scale: (V,).
      reset: bool (B, T) or None.
      chunk_size: tokens per chunk.
      implementation: "auto" and "xla", or "pallas".

    Returns:
      (state after the last token, y (B, T, H V) float32).
    """
    run = select_implementation(implementation, auto=xla.mix, xla=xla.mix, pallas=pallas.mix)
    return run(state, tokens, gates, norm_scale, reset, chunk_size)
