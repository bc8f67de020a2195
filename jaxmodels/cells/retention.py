"""How long a cell remembers when training starts: its retention a token, set exactly and measured.

Retention is the factor by which a token's step multiplies what the state holds. GroundThink asks
for 0.9999 ("identity init", SYSTEMS G-13) or for a mixture of rates ("dual decay", G-15); 2.3 gives
the raw values. What the data adds to the raw value starts at zero, so that the retention at the
start is the same for every token.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.cells.base import Cell
from jaxmodels.cells.layers import shift_in
from jaxmodels.cells.mamba1 import Mamba1Cell
from jaxmodels.cells.mamba2 import Mamba2Cell
from jaxmodels.cells.rwkv6 import RWKV6Cell
from jaxmodels.cells.rwkv7 import RWKV7Cell
from jaxmodels.errors import UserError
from jaxmodels.ops.common.silu import silu
from jaxmodels.ops.short_conv.xla import short_conv


def spread(groups, count: int) -> np.ndarray:
    """Rates for `count` channels or heads from groups of (share, retention), in order.

    Each group gets at least one if there are enough; the last takes the rest.
    """
    shares = np.cumsum([share for share, _ in groups])
    ends = np.round(shares / shares[-1] * count).astype(int)
    for i in range(len(ends)):
        ends[i] = min(max(ends[i], i + 1), count)
    ends[-1] = count
    rates = np.concatenate(
        [np.full(n, rate) for (_, rate), n in zip(groups, np.diff(ends, prepend=0), strict=True)]
    )
    return rates.astype(np.float64)


def set_retention(cell: Cell, groups) -> None:
    """Changes a freshly built cell in place.

    Args:
      cell: of RWKV-6 or -7, Mamba-1 or -2.
      groups: pairs (share of the channels, retention in (0, 1)); ((1.0, 0.9999),) is one rate for
        all. Mamba's rates go by head (2) or channel (1).

    Raises:
      UserError: a retention that the cell cannot have.
    """
    if isinstance(cell, RWKV6Cell):
        rates = -np.log(spread(groups, cell.config.width))
        cell.decay[...] = jnp.asarray(np.log(rates), jnp.float32)
    elif isinstance(cell, RWKV7Cell):
        share = -np.log(spread(groups, cell.config.width)) * np.exp(0.5)  # log_w = -e^-1/2 sigma(d)
        if share.max() >= 1.0:
            raise UserError("retention: RWKV-7 keeps more than 0.5452 a token; ask for more")
        cell.decay.bias[...] = jnp.asarray(np.log(share / (1.0 - share)), jnp.float32)
    elif isinstance(cell, Mamba2Cell):
        steps = jax.nn.softplus(cell.dt_bias[...])
        rates = -np.log(spread(groups, cell.config.heads))
        cell.A_log[...] = jnp.asarray(np.log(rates), jnp.float32) - jnp.log(steps)
        kernel = cell.in_proj.kernel
        kernel[...] = kernel[...].at[:, -cell.config.heads :].set(0.0)
    elif isinstance(cell, Mamba1Cell):
        steps = jax.nn.softplus(cell.dt_proj.bias[...])
        rates = -np.log(spread(groups, steps.size))
        rates = jnp.asarray(np.log(rates), jnp.float32) - jnp.log(steps)
        cell.A_log[...] = jnp.broadcast_to(rates[None], cell.A_log[...].shape)
        cell.dt_proj.kernel[...] = jnp.zeros_like(cell.dt_proj.kernel[...])
    else:
        raise TypeError(f"no retention to set in {type(cell).__name__}")


def retention_of(cell: Cell, state, xs, reset=None, write=None):
    """What each token's step multiplies the state by, without what a reset wipes out.

    Args:
      cell, write: see `set_retention` and the cells' `step`.
      state, xs (B, T, C), reset: as for the call of the cell.

    Returns:
      float32: RWKV (B, T, H, N), by key channel, for version 7 the diagonal alone; Mamba-2
      (B, T, H); Mamba-1 (B, T, D), of the state's slowest entry.
    """
    if isinstance(cell, RWKV6Cell | RWKV7Cell):
        before = shift_in(xs, state.shift, reset)
        if isinstance(cell, RWKV6Cell):
            return jnp.exp(cell._project(xs, before, write)[0][1])
        return jnp.exp(cell._heads(cell._project(xs, before, None, write)[1]))
    delta, a = step_sizes(cell, state, xs, reset, write)
    return jnp.exp(delta * a.reshape((1, 1, -1)))


def step_sizes(cell: Cell, state, xs, reset=None, write=None):
    """delta (B, T, H) of Mamba-2 or (B, T, D) of Mamba-1, and its slowest rate A (H,) or (D,)."""
    taps, bias = cell.conv_taps[...], cell.conv_bias[...]
    convolved = functools.partial(short_conv, state.conv, taps=taps, bias=bias, reset=reset)
    if isinstance(cell, Mamba2Cell):
        _, xbc, raw = cell._project(xs)
        _, delta, a, *_ = cell._parts(silu(convolved(xbc)[1]), raw, write)
        return delta, a
    x, _ = cell._project(xs)
    delta, a, *_ = cell._selected(silu(convolved(x)[1]), write)
    return delta, jax.lax.reduce_max(a, (0,))
