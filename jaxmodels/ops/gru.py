"""Gated recurrent unit, one token and a sequence, in the convention of cuDNN and PyTorch.

    r = sigma(x_r + U_r h + b_r) ;  z = sigma(x_z + U_z h + b_z)
    n = tanh(x_n + r (U_n h + b_n)) ;  h' = (1 - z) n + z h

Source: arXiv 1406.1078, with the reset gate applied after the matmul (arXiv 1412.3555, version of
cuDNN). The inputs x = W u + b_w are projected by the caller, for all tokens at once. Shapes: B
batch, T time, D hidden width. Sequences have time first, or the scan would transpose the projected
inputs, and their gradients back.
"""

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.deferred_weight_grads import deferred_scan
from jaxmodels.ops.common.precision import precision_of


def gru_step(h, x, kernel, bias):
    """Read one token.

    Args:
      h: float32 (B, D).
      x: float32 (B, 3 D), projected inputs of the gates r, z and n.
      kernel: (D, 3 D), in the dtype of the matmul.
      bias: float32 (3 D,).

    Returns:
      h' (B, D).
    """
    options = {"precision": precision_of(kernel.dtype), "preferred_element_type": jnp.float32}
    return _update(h, x, jnp.dot(h.astype(kernel.dtype), kernel, **options) + bias[None])


def gru(h, xs, kernel, bias, *, keep=None, enter=None, active=None):
    """Run `gru_step` over time; weight gradients are formed several tokens at a time.

    Args:
      h: float32 (B, D), before the first token.
      xs: float32 (T, B, 3 D).
      kernel, bias: see `gru_step`.
      keep: bool (T, B) or None; False sets h to 0 before this token.
      enter: float32 (T, B, D) or None, added to h before this token, after `keep`.
      active: bool (T, B) or None; False leaves h as `keep` and `enter` made it.

    Returns:
      (h after the last token, hs (T, B, D)).
    """

    def step(dot, bias, h, inputs):
        x, keep, enter, active = inputs
        if keep is not None:
            h = jnp.where(keep[:, None], h, 0.0)
        if enter is not None:
            h = h + enter
        new = _update(h, x, dot("kernel", h) + bias[None])
        h = new if active is None else jnp.where(active[:, None], new, h)
        return h, h

    h, hs, _ = deferred_scan(step, {"kernel": kernel}, bias, h, (xs, keep, enter, active))
    return h, hs


def _update(h, x, recurrent):
    (x_r, x_z, x_n), (h_r, h_z, h_n) = (jnp.split(part, 3, -1) for part in (x, recurrent))
    reset, update = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    candidate = jnp.tanh(x_n + reset * h_n)
    return (1.0 - update) * candidate + update * h
