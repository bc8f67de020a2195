"""Normalization over the last axis: XLA and Pallas TPU implementations."""

from jaxmodels.ops.common.dispatch import select_implementation
from jaxmodels.ops.norms import pallas, xla
from jaxmodels.ops.norms.xla import group_norm, rms_norm

__all__ = ["gated_rms_norm", "group_norm", "layer_norm", "rms_norm"]


def layer_norm(x, scale, bias, eps=1e-5, *, implementation="auto"):
    """Apply LayerNorm to x (..., n) in float32; scale, bias (n,).

    implementation: "auto" and "xla", or "pallas".
    """
    run = select_implementation(
        implementation, auto=xla.layer_norm, xla=xla.layer_norm, pallas=pallas.layer_norm
    )
    return run(x, scale, bias, eps)


def gated_rms_norm(y, z, scale, eps=1e-5, *, groups=1, implementation="auto"):
    """Apply RMSNorm to y silu(z) in float32.

    Args:
      y, z: (..., D) float32.
      scale: (D,).
      eps: added to the mean square.
      groups: parts of D that are normalized separately.
      implementation: "auto" and "xla", or "pallas", which leaves parts that neither fill registers
        nor are whole in them to XLA.
    """
    run = select_implementation(
        implementation, auto=xla.gated_rms_norm, xla=xla.gated_rms_norm, pallas=_gated_rms_norm
    )
    return run(y, z, scale, eps, groups)


def _gated_rms_norm(y, z, scale, eps, groups):
    if not pallas.supports_groups(y.shape[-1], groups):
        return xla.gated_rms_norm(y, z, scale, eps, groups)
    return pallas.gated_rms_norm(y, z, scale, eps, groups)
