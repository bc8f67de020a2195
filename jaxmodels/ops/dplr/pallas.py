"""Recurrence of RWKV-7 as a Pallas TPU kernel, fused with the element-wise work around it.

The algorithm is that of `chunked.py`, on one row and packs of heads; the kernel and its gradient
are built by `ops/head_kernels`, and the inverse is kept for the backward pass. States are
transposed, (N, P N), so that decays are along the lanes.

On a TPU its matmuls, including the solve and the state, are three bfloat16 passes (`dot` of
`common/pallas_tpu.py`): 16 bits per factor, not the 24 of `chunked.py`. Cumulative sums of decays
are float32. `tests/ops/test_pallas.py` bounds the error at 2e-4 of the largest entry.

Shapes: B batch, T time, H heads, N head size, c chunk size, P heads per pack.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.pallas_tpu import aligned_chunk_size
from jaxmodels.ops.dplr.chunked import MOST
from jaxmodels.ops.head_kernels.heads import sizes_of
from jaxmodels.ops.head_kernels.run import Kernel, run_kernel


def dplr_pallas(mix, state, tokens, shared, reset=None, *, chunk_size=64):
    """Run the recurrence as a TPU kernel, interpreted on other platforms; see `ops.dplr.dplr`.

    Keys and values have size N. `mix` gets arrays (c, P N) and vectors (1, P N).
    """
    heads, head = state.shape[1:3]
    sizes, fill = sizes_of(aligned_chunk_size(chunk_size, tokens[0].shape[1]), heads, head)
    kernel = Kernel("dplr", functools.partial(_chunk, mix), lambda *_: (), keeps=True)
    arguments = state.swapaxes(2, 3), tokens, (), shared, reset
    state, y = run_kernel(kernel, sizes, fill, *arguments, y_lanes=head)
    return state.swapaxes(2, 3), y


def _chunk(mix, heads, state, tokens, numbers, shared, inverse):
    """Call `mix` with the recurrence from state (N, P N); see `Kernel.body`."""
    del numbers
    inverses = []

    def recur(*inputs):
        state_after, y, used = _recur(heads, state, inputs, inverse)
        inverses.append(used)
        return state_after, y

    return mix(recur, tokens, shared, heads.head_sum), inverses[0]


def _recur(heads, state, inputs, inverse):
    """Run the recurrence over the chunk; see `chunked.py`."""
    r, log_w, k, v, a, b = inputs
    masks, size = heads.masks, heads.sizes.chunk
    g = heads.sums(masks.reads, log_w)
    end, middle = g[size - 1 :], -0.5 * MOST * size
    inner, outer = jnp.exp(g - middle), jnp.exp(middle - g)
    before = jnp.exp(g - log_w - middle)
    a_in, r_in, k_out, b_out = a * before, r * inner, k * outer, b * outer
    k_rows, b_rows, v_rows = heads.spread(k_out), heads.spread(b_out), heads.spread(v)

    a_b = heads.pairs(a_in, b_rows, masks.earlier)
    if inverse is None:
        inverse = heads.inverse(jax.lax.stop_gradient(a_b))
    entering = jnp.exp(middle) * heads.spread(state)  # (P N, P N), transposed: values by keys
    read = heads.dot(heads.pairs(a_in, k_rows, masks.earlier), v_rows)
    read = read + jnp.where(masks.first, heads.dot(a_in, heads.sound(entering), (1, 1)), 0.0)
    u = heads.solved(inverse, a_b, read)
    y = heads.dot(heads.pairs(r_in, b_rows, masks.visible), heads.spread(u))
    y = y + heads.dot(heads.pairs(r_in, k_rows, masks.visible), v_rows)
    y = y + jnp.where(masks.first, heads.dot(r_in, entering, (1, 1)), 0.0)

    k_end, b_end = (jnp.where(masks.last, x, 0.0) for x in (k_out, b_out))
    written = heads.dot(v, k_end, (0, 0)) + heads.dot(u, b_end, (0, 0))
    # As in `chunked.py`, the state that is kept is not scaled by exp(middle) and back.
    kept = jnp.where(masks.carried, state, 0.0)
    state = jnp.exp(end) * kept + jnp.exp(end - middle) * heads.compact(written)
    return state, y, inverse
