"""Weighted average of RWKV-4: chunked XLA and Pallas TPU."""

from jaxmodels.ops.common.dispatch import select_implementation
from jaxmodels.ops.wkv4.chunked import WKV4State, wkv4_chunked, wkv4_initial, wkv4_step
from jaxmodels.ops.wkv4.pallas import wkv4_pallas
from jaxmodels.ragged import keep_held

__all__ = ["WKV4State", "wkv4", "wkv4_initial", "wkv4_step"]


def wkv4(
    state, k, v, decay, bonus, reset=None, lengths=None, *, chunk_size=64, implementation="auto"
):
    """Run `wkv4_step` over time, in about T / chunk_size + chunk_size dependent steps.

    Args:
      state: (B, C) arrays, before the first token.
      k, v: (B, T, C).
      decay, bonus: (C,), see `wkv4_step`.
      reset: bool (B, T) or None.
      lengths: int (B,) or None; the tokens after these are padding and leave the state alone.
      chunk_size: limit of tokens per chunk of "xla"; ignored by "pallas".
      implementation: "auto" and "xla", or "pallas".

    Returns:
      (state after the last token, y (B, T, C)).
    """
    run = select_implementation(implementation, auto=wkv4_chunked, xla=wkv4_chunked, pallas=_pallas)
    after, y = run(state, k, v, decay, bonus, reset, lengths, chunk_size=chunk_size)
    # The exponent o has no gradient; a state that was never touched has all of it.
    return after if lengths is None else keep_held(lengths == 0, state, after), y


def _pallas(*arguments, chunk_size):
    del chunk_size
    return wkv4_pallas(*arguments)
