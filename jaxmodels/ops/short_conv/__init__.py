"""Short causal depthwise convolution: XLA and Pallas TPU implementations."""

from jaxmodels.ops.common.dispatch import select_implementation
from jaxmodels.ops.common.silu import silu
from jaxmodels.ops.short_conv import pallas
from jaxmodels.ops.short_conv.xla import short_conv, short_conv_step, state_after

__all__ = ["short_conv", "short_conv_silu", "short_conv_step", "state_after"]


def short_conv_silu(state, xs, taps, bias, reset=None, *, implementation="auto"):
    """Apply `short_conv`, then silu; arguments and results as in `short_conv`.

    implementation: "auto" and "xla", or "pallas" (at most 7 taps).
    """
    run = select_implementation(implementation, auto=_xla, xla=_xla, pallas=pallas.short_conv_silu)
    return run(state, xs, taps, bias, reset)


def _xla(state, xs, taps, bias, reset):
    state, y = short_conv(state, xs, taps, bias, reset)
    return state, silu(y)
