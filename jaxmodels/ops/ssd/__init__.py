"""State-space duality of Mamba-2: chunked XLA and Pallas TPU."""

from jaxmodels.errors import UserError
from jaxmodels.ops.common.dispatch import select_implementation
from jaxmodels.ops.ssd.chunked import ssd_chunked, ssd_step
from jaxmodels.ops.ssd.pallas import ssd_pallas

__all__ = ["ssd", "ssd_step"]


def ssd(
    state,
    x,
    delta,
    a,
    b,
    c,
    d,
    reset=None,
    *,
    chunk_size=64,
    dtype="float32",
    implementation="auto",
):
    """Run `ssd_step` over time, in chunks of matmuls.

    Args:
      state: (B, G, N, D) for D = H P / G, before the first token.
      x: (B, T, H P).
      delta: (B, T, H), >= 0.
      a: (H,), negative.
      b, c: (B, T, G N).
      d: (H,), the skip.
      reset: bool (B, T) or None.
      chunk_size: tokens per chunk, at most 256.
      dtype: input dtype of the matmuls; decays and states are float32.
      implementation: "auto" and "xla", or "pallas" (for G = 1).

    Returns:
      (state after the last token, y (B, T, H P) float32).
    """
    if implementation == "pallas" and state.shape[1] > 1:
        raise UserError(f'implementation="pallas" requires one group, got {state.shape[1]}')
    run = select_implementation(
        implementation, auto=ssd_chunked, xla=ssd_chunked, pallas=ssd_pallas
    )
    return run(state, x, delta, a, b, c, d, reset, chunk_size=chunk_size, dtype=dtype)
