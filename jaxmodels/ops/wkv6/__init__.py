"""Recurrence of RWKV-6: one step, chunked XLA, and Pallas TPU with the norm and gate around it."""

from typing import NamedTuple

import jax

from jaxmodels.ops.common.dispatch import select_implementation
from jaxmodels.ops.wkv6 import pallas, xla
from jaxmodels.ops.wkv6.chunked import wkv6_chunked, wkv6_step

__all__ = ["MixerVectors", "wkv6_chunked", "wkv6_mixer", "wkv6_step"]


class MixerVectors(NamedTuple):
    """Parameters between the projections: bonus (H, K), norm_scale and norm_bias (H V,)."""

    bonus: jax.Array
    norm_scale: jax.Array
    norm_bias: jax.Array


def wkv6_mixer(
    state, tokens, vectors, reset=None, *, norm_groups, chunk_size=32, implementation="auto"
):
    """Run `wkv6_step` over time, normalize what is read, and multiply it by silu(z).

    Args:
      state: (B, H, K, V), before the first token.
      tokens: r, log_w, k (B, T, H K), v, z (B, T, H V); see `wkv6_chunked`.
      vectors: `MixerVectors`.
      reset: bool (B, T) or None.
      norm_groups: number of parts of H V that are normalized separately. "pallas" fuses the norm
        of heads, and leaves that of other parts to XLA.
      chunk_size: tokens per chunk, a power of two for "pallas".
      implementation: "auto" and "xla", or "pallas".

    Returns:
      (state after the last token, y (B, T, H V) float32).
    """
    run = select_implementation(implementation, auto=xla.mix, xla=xla.mix, pallas=pallas.mix)
    return run(state, tokens, vectors, reset, norm_groups, chunk_size)
