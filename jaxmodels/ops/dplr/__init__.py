"""Diagonal-plus-low-rank recurrence of RWKV-7: chunked XLA and Pallas TPU."""

from jaxmodels.ops.common.dispatch import select_implementation
from jaxmodels.ops.dplr.chunked import dplr_chunked, dplr_step
from jaxmodels.ops.dplr.pallas import dplr_pallas

__all__ = ["dplr", "dplr_step"]


def dplr(mix, state, tokens, shared, reset=None, *, chunk_size=64, implementation="auto"):
    """Run `dplr_step` over time, with the element-wise work around it fused into the chunk.

    Args:
      mix: mix(recur, tokens, shared, head_sum) -> (state, y). It gets parts of the arguments in a
        common layout with heads along the last axis, and must call recur(r, log_w, k, v, a, b) ->
        (state, y) once, with log_w in [-0.6066, 0]; head_sum(x) sums over each head and is
        broadcastable to x.
      state: (B, H, K, V), before the first token.
      tokens: tuple of (B, T, H size), size K or V.
      shared: pytree of vectors (H, size), the same for all tokens.
      reset: bool (B, T) or None.
      chunk_size: tokens per chunk, at most 128.
      implementation: "auto" and "xla", or "pallas" (for K = V).

    Returns:
      (state after the last token, y (B, T, H V)).
    """
    run = select_implementation(
        implementation, auto=dplr_chunked, xla=dplr_chunked, pallas=dplr_pallas
    )
    return run(mix, state, tokens, shared, reset, chunk_size=chunk_size)
