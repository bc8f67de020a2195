"""Chunk of Mamba-2 in the kernels of `ops/ssd/pallas.py`, forward and backward.

Refs have the blocks of `pallas._Specs`. Shapes: N state size, c chunk size, P head size, h
heads per block, in packs that fill 128 lanes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxmodels.ops.common.pallas_tpu import LANES
from jaxmodels.ops.common.precision import precision_of


class Sizes(NamedTuple):
    """Static sizes: tokens per chunk c, head size P, heads per block h; dtype of matmuls."""

    chunk: int
    head: int
    block: int
    dtype: jnp.dtype


class Inputs(NamedTuple):
    """Refs that both passes read, for one chunk and one block of heads."""

    x: object
    b: object
    c: object
    id_column: object
    id_row: object
    coarse: object
    fine: object
    entered: object
    leaving: object
    delta: object
    coarse_row: object
    fine_row: object
    d: object
    keep: object


def _dot(sizes, x, y, over=(1, 0)):
    """Contract these axes of x and y, rounded to `sizes.dtype`, in float32."""
    dims = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(
        x.astype(sizes.dtype),
        y.astype(sizes.dtype),
        dims,
        precision=precision_of(sizes.dtype),
        preferred_element_type=jnp.float32,
    )


def _packs(sizes):
    """Return [(first lane, number of lanes, heads)] for each pack of a block."""
    side = max(
        n
        for n in range(1, sizes.block + 1)
        if sizes.block % n == 0 and n * sizes.head <= max(LANES, sizes.head)
    )
    lanes = side * sizes.head
    return [
        (p * lanes, lanes, range(p * side, p * side + side)) for p in range(sizes.block // side)
    ]


def _wide(sizes, numbers, lanes, heads):
    """Broadcast per-head numbers (c, h) to the lanes (c, lanes) of these heads."""
    wide = jnp.broadcast_to(numbers[:, heads[0]][:, None], (numbers.shape[0], lanes))
    for place, head in enumerate(heads[1:], 1):
        wide = jnp.where(_own(sizes, lanes, place), numbers[:, head][:, None], wide)
    return wide


def _only(sizes, x, place):
    """Zero x (c, lanes) except in the lanes of one head of a pack."""
    if x.shape[1] == sizes.head:
        return x
    return jnp.where(_own(sizes, x.shape[1], place), x, 0.0)


def _own(sizes, lanes, place):
    """Return the mask of the lanes of a pack's head number `place`, bool (1, lanes)."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, lanes), 1)
    return (lane >= place * sizes.head) & (lane < (place + 1) * sizes.head)


def _times(factor, x):
    """Return factor * x, and 0 where factor is 0, even if x is NaN or Inf."""
    return jnp.where(factor > 0.0, factor * x, 0.0)


def forward_chunk(sizes, keep, *refs, exact):
    """Compute one chunk of one block of heads.

    refs: `Inputs` and the initial state; the outputs y, final state and, with `keep`, state before
    the chunk; scratch for the chunk's scores and for the states of all blocks.
    """
    del exact  # matmuls are in `sizes.dtype` on all platforms
    given, refs = Inputs(*refs[: len(Inputs._fields)]), refs[len(Inputs._fields) :]
    start, y, final, *boundaries, scores, states = refs
    b, c = given.b[0], given.c[0]
    block = pl.program_id(2)
    dot = functools.partial(_dot, sizes)

    @pl.when(pl.program_id(1) == 0)
    def _():
        states[block] = start[0]

    @pl.when(block == 0)
    def _():
        scores[...] = jnp.where(_visible(given), dot(c, b, (1, 1)), 0.0)

    state = _apply_reset(given, states[block])
    if keep:
        boundaries[0][0, 0] = state
    read = dot(c, state)
    parts = []
    for lane, lanes, heads in _packs(sizes):
        at = slice(lane, lane + lanes)
        now = given.x[0, :, at] * _wide(sizes, given.delta[0, 0], lanes, heads)
        total = given.x[0, :, at] * given.d[:, at] + _times(
            _wide(sizes, given.entered[0, 0], lanes, heads), read[:, at]
        )
        for place, head in enumerate(heads):
            between = _between(given, head)
            pairs = scores[...] * jnp.exp(jnp.minimum(between, 0.0))
            total = total + dot(pairs, _only(sizes, now, place))
        y[0, :, at] = total
        parts.append(now * _wide(sizes, given.leaving[0, 0], lanes, heads))
    new = dot(b, jnp.concatenate(parts, 1), (0, 0))
    states[block] = _times(given.keep[0, 0], state) + new
    final[0] = states[block]


def _apply_reset(given, state):
    """Clear the state, including NaN, where a document starts at the chunk's first token."""
    return jnp.where(given.id_column[0, :1] == 0, state, 0.0)


def _visible(given, back=False):
    """Return the mask (c, c) of visible tokens; readers are rows, or with `back` columns."""
    size = given.id_row.shape[3]
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in (0, 1))
    same = given.id_column[0] == given.id_row[0, 0]
    return same & ((column >= row) if back else (row >= column))


def _between(given, head):
    """Return log decays (c, c), the sums at the row's token minus those at the column's."""
    parts = []
    for column, row in ((given.coarse, given.coarse_row), (given.fine, given.fine_row)):
        parts.append(column[0, 0, :, head][:, None] - row[0, 0, 0, head][None])
    return parts[0] + parts[1]


def backward_chunk(sizes, *refs, exact):
    """Differentiate one chunk of one block of heads.

    refs: `Inputs`, d_y, state before the chunk, gradient of the final state; outputs: gradients of
    x, b, c, of the sums at written tokens, of entered, leaving, delta, of the sums at reading
    tokens, of keep, d and the initial state; scratch as in `forward_chunk`.
    """
    del exact
    given, refs = Inputs(*refs[: len(Inputs._fields)]), refs[len(Inputs._fields) :]
    d_y, boundary, d_final, d_x, d_b, d_c, d_in, d_entered, d_leaving, d_delta, *refs = refs
    d_out, d_keep, d_d, d_start, scores, d_scores, d_states = refs
    b, c = given.b[0], given.c[0]
    block, blocks = pl.program_id(2), pl.num_programs(2)
    dot = functools.partial(_dot, sizes)

    @pl.when(pl.program_id(1) == 0)
    def _():
        d_states[block] = d_final[0]

    @pl.when(block == 0)
    def _():
        back = _visible(given, back=True)
        scores[...] = jnp.where(back, dot(b, c, (1, 1)), 0.0)
        d_scores[...] = jnp.zeros_like(d_scores)
        d_b[...], d_c[...] = jnp.zeros_like(d_b), jnp.zeros_like(d_c)

    state, d_state = boundary[0, 0], d_states[block]
    read, d_left = dot(c, state), dot(b, d_state)
    d_reads, lefts, d_pairs = [], [], jnp.zeros_like(d_scores)
    numbers = {name: [] for name in ("in", "entered", "leaving", "delta", "out")}
    for lane, lanes, heads in _packs(sizes):
        at = slice(lane, lane + lanes)
        into, out, rate = (
            _wide(sizes, z[0, 0], lanes, heads) for z in (given.entered, given.leaving, given.delta)
        )
        plain, d_now = given.x[0, :, at], d_y[0, :, at]
        now = plain * rate
        d_d[0, 0, :, at] = jnp.sum(plain * d_now, 0, keepdims=True)
        d_reads.append(into * d_now)
        lefts.append(out * now)
        total = out * d_left[:, at]
        entering, parting = d_now * read[:, at], now * d_left[:, at]
        for place, head in enumerate(heads):
            # Pairs transposed: rows are the tokens written, columns those that read.
            decay = jnp.exp(jnp.minimum(-_between(given, head), 0.0))
            pairs = scores[...] * decay
            mine = _only(sizes, d_now, place)
            total = total + dot(pairs, mine)
            flow = dot(now, mine, (1, 1)) * decay
            d_pairs = d_pairs + flow
            flow = flow * scores[...]
            numbers["in"].append(jnp.sum(flow, 1, keepdims=True))
            numbers["out"].append(jnp.sum(flow, 0, keepdims=True))
        sums = {"entered": entering, "leaving": parting, "delta": total * plain}
        for name, part in sums.items():
            numbers[name] += [
                jnp.sum(_only(sizes, part, place), 1, keepdims=True) for place in range(len(heads))
            ]
        d_x[0, :, at] = total * rate + d_now * given.d[:, at]
    d_scores[...] += d_pairs
    for name, ref in (
        ("in", d_in),
        ("entered", d_entered),
        ("leaving", d_leaving),
        ("delta", d_delta),
    ):
        ref[0, 0] = jnp.concatenate(numbers[name], 1)
    d_out[0, 0, 0] = jnp.concatenate(numbers["out"], 0)
    d_read, left = jnp.concatenate(d_reads, 1), jnp.concatenate(lefts, 1)
    d_c[0] += dot(d_read, state, (1, 1))
    d_b[0] += dot(left, d_state, (1, 1))
    d_keep[0, 0] = jnp.sum(d_state * state, 0, keepdims=True)
    d_states[block] = _times(given.keep[0, 0], d_state) + dot(c, d_read, (0, 0))
    d_start[0] = d_states[block]

    @pl.when(block == blocks - 1)
    def _():
        back = _visible(given, back=True)
        d_masked = jnp.where(back, d_scores[...], 0.0)
        d_b[0] += dot(d_masked, c)
        d_c[0] += dot(d_masked, b, (0, 0))
