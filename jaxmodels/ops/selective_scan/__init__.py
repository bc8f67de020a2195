"""Selective state-space recurrence of Mamba-1: one step, chunked XLA and Pallas TPU."""

from jaxmodels.ops.common.dispatch import select_implementation
from jaxmodels.ops.selective_scan.chunked import selective_scan_chunked, selective_scan_step
from jaxmodels.ops.selective_scan.pallas import selective_scan_pallas

__all__ = ["selective_scan", "selective_scan_step"]


def selective_scan(state, x, delta, a, b, c, reset=None, *, chunk_size=16, implementation="auto"):
    """Run `selective_scan_step` over time.

    Args:
      state: (B, N, D), before the first token.
      x, delta: (B, T, D); delta >= 0.
      a: (N, D), negative.
      b, c: (B, T, N).
      reset: bool (B, T) or None.
      chunk_size: tokens between stored states; "pallas" has its own.
      implementation: "auto" and "xla", or "pallas".

    Returns:
      (state after the last token, y (B, T, D)).
    """
    run = select_implementation(
        implementation,
        auto=selective_scan_chunked,
        xla=selective_scan_chunked,
        pallas=selective_scan_pallas,
    )
    return run(state, x, delta, a, b, c, reset, chunk_size=chunk_size)
