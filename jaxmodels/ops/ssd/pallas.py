"""State-space duality of Mamba-2 as a Pallas TPU kernel, for one group of heads.

The equations are those of `ops/ssd/chunked.py`, in chunks:

    y = (E * c b^T) w + entered (c S) ;   S <- keep S + b^T (leaving w) ;   w = delta x

with E the decays between two tokens of a chunk. Per-token, per-head decays and their sums are
computed outside by operations that JAX differentiates; the kernel computes arrays as large as
chunk x chunk or the state, of which only the states at chunk boundaries leave VMEM. The backward
pass recomputes a chunk's pairs in transposed layout, to avoid transposes.

Shapes: B batch, T time, H heads, P head size, D = H P, N state size, c chunk size, n chunks, h
heads per block; within a block, heads form packs that fill 128 lanes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxmodels.ops.common.chunks import masked_exp, same_segment, segment_cumsum, segment_ids
from jaxmodels.ops.common.pallas_tpu import (
    LANES,
    aligned_chunk_size,
    float32_array,
    kernel_call,
    lane_blocks,
    specs_over_time,
)
from jaxmodels.ops.common.varying import cast_alike
from jaxmodels.ops.ssd.chunked import GRAIN, LEAST
from jaxmodels.ops.ssd.pallas_chunk import Inputs, Sizes, backward_chunk, forward_chunk

WIDTH = 1024  # channels per block of heads, for chunk and state size 128


def ssd_pallas(state, x, delta, a, b, c, d, reset=None, *, chunk_size=128, dtype=jnp.float32):
    """Run as a TPU kernel, for one group, state (B, 1, N, D); see `ops.ssd.ssd`."""
    state = state[:, 0]
    batch, time, width = x.shape
    heads = a.shape[0]
    size = aligned_chunk_size(chunk_size, time)
    if reset is None:
        reset = jnp.zeros((batch, time), bool)

    def padded(z):
        return jnp.pad(z, [(0, 0), (0, -time % size)] + [(0, 0)] * (z.ndim - 2))

    # Padding with delta = 0 neither decays nor writes.
    x, delta, b, c, reset = (padded(z.astype(jnp.float32)) for z in (x, delta, b, c, reset))
    head, states = width // heads, state.shape[1]
    block, filled = lane_blocks(heads, head, WIDTH * 2 * LANES // (size + states))
    fill = filled - heads
    x, state = (jnp.pad(z, [(0, 0), (0, 0), (0, fill * head)]) for z in (x, state))
    delta = jnp.pad(delta, [(0, 0), (0, 0), (0, fill)])
    a, d = (jnp.pad(z, (0, fill)) for z in (a, d))
    ids, decays = _decays(a, delta, reset != 0, size, head)
    sizes = Sizes(size, head, block, jnp.dtype(dtype))
    d = jnp.repeat(d, head)[None]
    arrays = cast_alike(state.astype(jnp.float32), x, b, c, d, ids, delta, decays)
    y, state = _run(sizes, *arrays)
    state, y = state[..., :width], y[..., :width]
    return state[:, None], y[:, :time]


class _Decays(NamedTuple):
    """Decays by token and head, float32.

    sums: two (B, T, H), cumulative log decays within a chunk, coarse and fine (`chunked.py`);
    entered, leaving (B, T, H): decay from the chunk's start to a token, and from it to the end, 0
    across documents; keep (B, n, D): decay over the whole chunk, per channel.
    """

    sums: tuple[jax.Array, jax.Array]
    entered: jax.Array
    leaving: jax.Array
    keep: jax.Array


def _decays(a, delta, reset, size, head):
    """Return segment ids (B, T) and `_Decays`, given delta (B, T, H) and reset (B, T)."""
    batch, time, heads = delta.shape
    ids = segment_ids(reset.reshape(batch, -1, size))  # (B, n, c)
    log = jnp.maximum(delta * a[None, None], LEAST).reshape(*ids.shape, heads)
    coarse = jnp.round(log / GRAIN) * GRAIN
    visible = same_segment(ids)
    sums = [segment_cumsum(part, visible) for part in (coarse, log - coarse)]
    ends = sum(s[:, :, -1:] - s for s in sums)
    first, last = ids == 0, ids == ids[..., -1:]
    entered = masked_exp(sums[0] + sums[1], first[..., None])
    leaving = masked_exp(ends, last[..., None])
    keep = jnp.repeat(entered[:, :, -1], head, -1)
    sums, entered, leaving = jax.tree.map(
        lambda z: z.reshape(batch, time, heads), (tuple(sums), entered, leaving)
    )
    return ids.reshape(batch, time), _Decays(sums, entered, leaving, keep)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(sizes, state, x, b, c, d, ids, delta, decays):
    """Run on state (B, N, D), x (B, T, D), b, c (B, T, N), d (1, D), ids, delta (B, T, H)."""
    return _forward(sizes, state, x, b, c, d, ids, delta, decays, keep=False)[:2]


def _forward(sizes, state, x, b, c, d, ids, delta, decays, *, keep):
    specs = _Specs(sizes, state, x, backwards=False)
    outputs, shapes = [specs.channels, specs.final], [_shape(x), _shape(state)]
    if keep:
        outputs.append(specs.boundary)
        shapes.append(_shape(state, specs.chunks))
    return kernel_call(
        functools.partial(forward_chunk, sizes, keep),
        "ssd_forward",
        grid=specs.grid,
        in_specs=[*specs.inputs, specs.start],
        out_specs=outputs,
        out_shape=shapes,
        scratch_shapes=[specs.pairs_memory, specs.state_memory],
        semantics=("parallel", "arbitrary", "arbitrary"),
    )(*_inputs(sizes, x, b, c, d, ids, delta, decays), state)


def _run_forward(sizes, state, *rest):
    y, state, boundaries = _forward(sizes, state, *rest, keep=True)
    return (y, state), (boundaries, *rest)


def _run_backward(sizes, saved, cotangents):
    boundaries, x, b, c, d, ids, delta, decays = saved
    d_y, d_state = cotangents
    specs = _Specs(sizes, d_state, x, backwards=True)
    inputs = _inputs(sizes, x, b, c, d, ids, delta, decays)
    d_x, d_b, d_c, d_in, d_entered, d_leaving, d_delta, d_out, d_keep, d_d, d_state = kernel_call(
        functools.partial(backward_chunk, sizes),
        "ssd_backward",
        grid=specs.grid,
        in_specs=[*specs.inputs, specs.channels, specs.boundary, specs.start],
        out_specs=[specs.channels, specs.shared, specs.shared]
        + [specs.column] * 4
        + [specs.row, specs.chunk, specs.chunk, specs.final],
        out_shape=[_shape(z) for z in (x, b, c, *[inputs.coarse] * 4, inputs.coarse_row)]
        + [_shape(inputs.keep)] * 2
        + [_shape(d_state)],
        scratch_shapes=[specs.pairs_memory] * 2 + [specs.state_memory],
        semantics=("parallel", "arbitrary", "arbitrary"),
    )(*inputs, d_y, boundaries, d_state)
    d_sums, d_entered, d_leaving, d_delta = _from_blocks(
        _columns(d_out) - d_in, d_entered, d_leaving, d_delta
    )
    zeros = jnp.zeros_like(d_sums)  # the coarse part is rounded and has no derivative
    d_decays = _Decays((zeros, d_sums), d_entered, d_leaving, d_keep[:, :, 0])
    return d_state, d_x, d_b, d_c, d_d.sum((0, 1)), None, d_delta, d_decays


_run.defvjp(_run_forward, _run_backward)


def _inputs(sizes, x, b, c, d, ids, delta, decays):
    """Arrange the arrays in the layouts that the kernels read."""
    ids = ids[..., None]
    sums = decays.sums
    numbers = _by_block(sizes, *sums, decays.entered, decays.leaving, delta)
    rows = [_rows(sizes, z) for z in numbers[:2]]
    return Inputs(x, b, c, ids, _rows(sizes, ids), *numbers, *rows, d, decays.keep[:, :, None])


def _shape(like, chunks=None):
    dims = like.shape if chunks is None else (like.shape[0], chunks, *like.shape[1:])
    return float32_array(*dims)


def _by_block(sizes, *arrays):
    """Transpose (B, T, H) to (B, H / h, T, h)."""
    return [z.reshape(*z.shape[:2], -1, sizes.block).swapaxes(1, 2) for z in arrays]


def _rows(sizes, z):
    """Transpose (..., T, h) to (..., n, h, c)."""
    return z.reshape(*z.shape[:-2], -1, sizes.chunk, z.shape[-1]).swapaxes(-1, -2)


def _columns(z):
    """Invert `_rows`."""
    z = z.swapaxes(-1, -2)
    return z.reshape(*z.shape[:-3], -1, z.shape[-1])


def _from_blocks(*arrays):
    return [z.swapaxes(1, 2).reshape(z.shape[0], z.shape[2], -1) for z in arrays]


class _Specs:
    """Grid (batch row, chunk, block of heads) and block specs of each kind of array."""

    def __init__(self, sizes, state, x, backwards):
        size, lanes = sizes.chunk, sizes.block * sizes.head
        batch, states, width = state.shape
        self.chunks = x.shape[1] // size
        self.grid = (batch, self.chunks, width // lanes)
        self.state_memory = pltpu.VMEM((self.grid[2], states, lanes), jnp.float32)
        self.pairs_memory = pltpu.VMEM((size, size), jnp.float32)

        spec = specs_over_time(self.chunks, 1, backwards=backwards)
        self.channels = spec((1, size, lanes), lambda b, t, h: (b, t, h))
        self.shared = spec((1, size, states), lambda b, t, h: (b, t, 0))
        id_column = spec((1, size, 1), lambda b, t, h: (b, t, 0))
        id_row = spec((1, 1, 1, size), lambda b, t, h: (b, t, 0, 0))
        self.column = spec((1, 1, size, sizes.block), lambda b, t, h: (b, h, t, 0))
        self.row = spec((1, 1, 1, sizes.block, size), lambda b, t, h: (b, h, t, 0, 0))
        self.chunk = spec((1, 1, 1, lanes), lambda b, t, h: (b, t, 0, h))
        vector = spec((1, lanes), lambda b, t, h: (0, h))
        self.boundary = spec((1, 1, states, lanes), lambda b, t, h: (b, t, 0, h))
        # Each block of heads is loaded and stored once, not once per chunk.
        last = self.grid[2] - 1
        self.start = pl.BlockSpec(
            (1, states, lanes), lambda b, t, h: (b, 0, jnp.where(t == 0, h, last))
        )
        self.final = pl.BlockSpec(
            (1, states, lanes), lambda b, t, h: (b, 0, jnp.where(t == self.chunks - 1, h, 0))
        )
        self.inputs = Inputs(
            *(self.channels, self.shared, self.shared, id_column, id_row),
            *[self.column] * 5,
            *(self.row, self.row, vector, self.chunk),
        )
