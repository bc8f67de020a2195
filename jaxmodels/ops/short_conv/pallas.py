"""silu(short convolution) as a Pallas TPU kernel that reads and writes each array once.

The equations are those of `xla.py`. The backward pass is the time-reversed convolution, masked by
the distance of each token to the end of its document. Shapes: B batch, T time, D channels, K taps,
c tokens per block.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxmodels.ops.common.pallas_tpu import (
    SUBLANES,
    float32_array,
    kernel_call,
    lane_blocks,
    specs_over_time,
    sum_row_groups,
)
from jaxmodels.ops.common.varying import cast_alike

TOKENS, WIDTH = 256, 512  # block size


def short_conv_silu(state, xs, taps, bias, reset=None):
    """Apply `short_conv`, then silu; arguments and results as in `short_conv`; at most 7 taps."""
    batch, time, width = xs.shape
    number = taps.shape[1]
    before = number - 1
    since, left, left_before = _distances(reset, batch, time, before)
    # The last inputs of the last token's document.
    padded = jnp.concatenate([state, xs[:, max(time - before, 0) :]], 1)[:, -before:]
    age = jnp.arange(before - 1, -1, -1)
    last = jnp.where((since[:, -1:] >= age[None])[..., None], padded, 0.0)
    fill = lane_blocks(width, 1, WIDTH)[1] - width
    channels = [
        jnp.pad(x, [(0, 0)] * axis + [(0, fill)] + [(0, 0)] * (x.ndim - 1 - axis))
        for x, axis in ((state, 2), (xs, 2), (taps, 0), (bias, 0))
    ]
    arrays = cast_alike(*channels, since, left, left_before)
    return last, _run(*arrays)[..., :width]


def _distances(reset, batch, time, before):
    """Count the tokens of the same document before and after each token, and after the state's.

    Returns:
      int32 (B, T), (B, T) and (B, `before`); the first document started before the state.
    """
    far = time + 8
    place = jnp.arange(time, dtype=jnp.int32)[None]
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    start = jax.lax.cummax(jnp.where(reset, place, -far), axis=1)
    end = jax.lax.cummin(jnp.where(reset, place, time), axis=1, reverse=True)
    ends = jnp.concatenate([end[:, 1:], jnp.full((batch, 1), time, jnp.int32)], 1)
    state_place = jnp.arange(-before, 0, dtype=jnp.int32)[None]
    return place - start, ends - 1 - place, end[:, :1] - 1 - state_place


@jax.custom_vjp
def _run(state, xs, taps, bias, since, left, left_before):
    return _forward(state, xs, taps, bias, since)


def _forward(state, xs, taps, bias, since):
    (xs, since), before, vectors, specs = _prepare(state, (xs, since[..., None]), taps, bias)
    y = kernel_call(
        functools.partial(_forward_block, taps.shape[1]),
        "conv_silu_forward",
        grid=specs.grid,
        in_specs=[specs.tokens, specs.previous, specs.state, specs.column, specs.vectors],
        out_specs=specs.tokens,
        out_shape=float32_array(*xs.shape),
        scratch_shapes=[pltpu.VMEM((SUBLANES + specs.size, specs.lanes), jnp.float32)],
        semantics=("parallel", "parallel", "arbitrary"),
    )(xs, xs, before, since, vectors)
    return y[:, : specs.time]


def _run_forward(state, xs, taps, bias, since, left, left_before):
    return _forward(state, xs, taps, bias, since), (
        *(state, xs, taps, bias),
        *(since, left, left_before),
    )


def _run_backward(saved, d_y):
    state, xs, taps, bias, since, left, left_before = saved
    number = taps.shape[1]
    columns = (d_y, since[..., None], left[..., None])
    (xs, *columns), before, vectors, specs = _prepare(state, (xs, *columns), taps, bias)
    left_before = jnp.pad(left_before, [(0, 0), (SUBLANES - number + 1, 0)])[..., None]
    batch, _, width = xs.shape
    sums = (batch, number + 1, SUBLANES, width)
    d_xs, d_state, d_vectors = kernel_call(
        functools.partial(_backward_block, number),
        "conv_silu_backward",
        grid=specs.grid,
        in_specs=[specs.tokens, specs.previous, specs.state, specs.tokens]
        + [specs.column] * 2
        + [specs.state_column, specs.vectors],
        out_specs=[specs.tokens, specs.state, specs.sums],
        out_shape=[float32_array(*dims) for dims in (xs.shape, before.shape, sums)],
        scratch_shapes=[
            pltpu.VMEM((SUBLANES + specs.size, specs.lanes), jnp.float32),
            pltpu.VMEM((SUBLANES + specs.size + SUBLANES, specs.lanes), jnp.float32),
        ],
        semantics=("parallel", "parallel", "arbitrary"),
    )(xs, xs, before, *columns, left_before, vectors)
    d_vectors = d_vectors.sum((0, 2))
    d_taps = d_vectors[:number][::-1].T
    d_state = d_state[:, SUBLANES - number + 1 :]
    return d_state, d_xs[:, : specs.time], d_taps, d_vectors[number], None, None, None


_run.defvjp(_run_forward, _run_backward)


def _prepare(state, by_time, taps, bias):
    """Return arrays padded to blocks, the state padded to 8 tokens, taps and bias rows, specs."""
    time = by_time[0].shape[1]
    specs = _Specs(by_time[0], taps.shape[1])
    by_time = [jnp.pad(z, [(0, 0), (0, -time % specs.size), (0, 0)]) for z in by_time]
    before = jnp.pad(state, [(0, 0), (SUBLANES - state.shape[1], 0), (0, 0)])
    vectors = jnp.concatenate([taps.T[::-1], bias[None]])
    return by_time, before, vectors, specs


class _Specs:
    """Grid (batch row, lanes, block of tokens) and block specs of each kind of array."""

    def __init__(self, xs, number):
        batch, self.time, width = xs.shape
        self.size = min(TOKENS, -(-self.time // SUBLANES) * SUBLANES)
        self.lanes = lane_blocks(width, 1, WIDTH)[0]
        blocks = -(-self.time // self.size)
        self.grid = (batch, width // self.lanes, blocks)
        row_groups = self.size // SUBLANES
        lanes = self.lanes

        spec = specs_over_time(blocks, 2, backwards=True)
        self.tokens = spec((1, self.size, lanes), lambda b, d, t: (b, t, d))
        self.previous = spec(
            (1, SUBLANES, lanes), lambda b, d, t: (b, jnp.maximum(t * row_groups - 1, 0), d)
        )
        self.state = pl.BlockSpec((1, SUBLANES, lanes), lambda b, d, t: (b, 0, d))
        self.column = spec((1, self.size, 1), lambda b, d, t: (b, t, 0))
        self.state_column = pl.BlockSpec((1, SUBLANES, 1), lambda b, d, t: (b, 0, 0))
        self.vectors = pl.BlockSpec((number + 1, lanes), lambda b, d, t: (0, d))
        self.sums = pl.BlockSpec((1, number + 1, SUBLANES, lanes), lambda b, d, t: (b, 0, 0, d))


def _seen(number, x, previous, state, since, window):
    """Return x shifted by 0, 1, ... K - 1 tokens, 0 where that is another document."""
    first = pl.program_id(2) == pl.num_programs(2) - 1
    window[:SUBLANES] = jnp.where(first, state[0], previous[0])
    window[SUBLANES:] = x[0]
    seen = [x[0]]
    for back in range(1, number):
        there = window[pl.ds(SUBLANES - back, x.shape[1]), :]
        seen.append(jnp.where(since[0] >= back, there, 0.0))
    return seen


def _forward_block(number, x, previous, state, since, vectors, y, window, *, exact):
    z = vectors[number][None]
    for back, seen in enumerate(_seen(number, x, previous, state, since, window)):
        z = z + seen * vectors[back][None]
    y[0] = z / (1.0 + jnp.exp(-z))


def _backward_block(
    number, x, previous, state, d_y, since, left, left_before, vectors, *refs, exact
):
    d_x, d_state, d_vectors, window, later = refs
    size = x.shape[1]

    @pl.when(pl.program_id(2) == 0)
    def _():
        later[SUBLANES + size :] = jnp.zeros_like(later[SUBLANES + size :])
        d_vectors[...] = jnp.zeros_like(d_vectors)

    z = vectors[number][None]
    seen = _seen(number, x, previous, state, since, window)
    for back, part in enumerate(seen):
        z = z + part * vectors[back][None]
    below = 1.0 + jnp.exp(-z)
    d_z = d_y[0] * (1.0 + z * (1.0 - 1.0 / below)) / below
    for back, part in enumerate(seen):
        d_vectors[0, back] += sum_row_groups(d_z * part)
    d_vectors[0, number] += sum_row_groups(d_z)

    # later: 8 rows of zeros, this block's gradients, the first 8 of the next block.
    later[:SUBLANES] = jnp.zeros_like(later[:SUBLANES])
    later[SUBLANES : SUBLANES + size] = d_z
    parts = []
    for start, length, remaining in ((0, SUBLANES, left_before), (SUBLANES, size, left)):
        total = jnp.zeros((length, d_z.shape[1]), jnp.float32)
        for back in range(number):
            there = later[pl.ds(start + back, length), :]
            total = total + jnp.where(remaining[0] >= back, there * vectors[back][None], 0.0)
        parts.append(total)
    d_state[0], d_x[0] = parts
    later[SUBLANES + size :] = later[SUBLANES : 2 * SUBLANES]
