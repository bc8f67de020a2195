"""Recurrence over chunks of time that recomputes each chunk in the backward pass.

`lax.scan` over chunks copies its inputs to a chunk-major array, stacks its outputs, and stores the
residuals of every chunk. This loop slices each chunk from the tokens in place, writes its output in
place, and stores only the states at chunk boundaries.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.chunks import name_boundary_states
from jaxmodels.ops.common.varying import cast_alike, cast_like, zeros_like


def chunk_loop(
    body,
    state,
    tokens,
    reset,
    params,
    *,
    chunk_size: int,
    time_axis: int = 1,
    rows: int | None = None,
):
    """Run `body` over chunks of `chunk_size` tokens; the last may be shorter.

    Args:
      body: body(state, tokens, reset, params, kept) -> ((state, y), kept), for chunks of any
        length. The forward pass calls it with kept None and stores the array that it returns as
        kept; the backward pass passes that array, to avoid recomputing it. No gradient flows
        through kept. `body` must not close over arrays.
      state: pytree of (batch, ...), before the first token.
      tokens: tuple of floating arrays (batch, ...) with time on `time_axis`.
      reset: bool (batch, time).
      params: pytree of floating arrays that all chunks share.
      chunk_size: tokens per chunk.
      time_axis: time axis of tokens and y.
      rows: batch rows processed at a time, a divisor of the batch size, chosen so that a chunk's
        intermediates stay in VMEM or cache; None means all.

    Returns:
      (state after the last token, y (batch, ...) with time on `time_axis`).
    """
    time = reset.shape[1]
    whole = time - time % chunk_size if time > chunk_size else 0
    if whole == 0:
        return body(state, tokens, reset, params, None)[0]
    run = _loop(body, chunk_size, time_axis, rows or reset.shape[0])
    state, tokens, reset, params = cast_alike(state, tokens, reset, params)
    if whole == time:
        return run(state, tokens, reset, params)

    def part(x, start, stop, axis=time_axis):
        return jax.lax.slice_in_dim(x, start, stop, axis=axis)

    parts = (tuple(part(x, 0, whole) for x in tokens), part(reset, 0, whole, 1))
    rest = (tuple(part(x, whole, time) for x in tokens), part(reset, whole, time, 1))
    state, y = run(state, *parts, params)
    (state, tail), _ = body(state, *rest, params, None)
    return state, jnp.concatenate([y, tail], time_axis)


def rows_within(batch: int, entries: int, most: int) -> int:
    """Return the largest divisor n of `batch` with n * entries <= most, or 1.

    All rows if their number is symbolic, as in `jax.export`.
    """
    if not isinstance(batch, int):
        return batch
    fitting = [n for n in range(1, batch + 1) if batch % n == 0 and n * entries <= most]
    return max(fitting, default=1)


def _loop(body, size, axis, rows):
    """Build the loop over whole chunks: (state, tokens, reset, params) -> (state, y)."""
    grid = _Grid(size, axis, rows)

    @jax.custom_vjp
    def run(state, tokens, reset, params):
        return _forward(body, grid, state, tokens, reset, params)[0]

    run.defvjp(functools.partial(_forward, body, grid), functools.partial(_backward, body, grid))
    return run


class _Grid(NamedTuple):
    """Grid of blocks of `rows` rows by `size` tokens on `axis`; place = (row group, chunk)."""

    size: int
    axis: int
    rows: int

    def counts(self, reset):
        """Return the numbers of row groups and chunks for reset (batch, time)."""
        groups = 1 if self.rows == reset.shape[0] else reset.shape[0] // self.rows
        return groups, reset.shape[1] // self.size

    def cut(self, x, place, axis=None):
        """Slice one block of x, with time on `axis`."""
        axis = self.axis if axis is None else axis
        sizes = list(x.shape)
        sizes[0], sizes[axis] = self.rows, self.size
        return jax.lax.dynamic_slice(x, self._start(x, place, axis), sizes)

    def put(self, x, block, place):
        """Return x with one block replaced."""
        return jax.lax.dynamic_update_slice(
            x, block.astype(x.dtype), self._start(x, place, self.axis)
        )

    def _start(self, x, place, axis):
        group, chunk = place
        starts = [0] * x.ndim
        starts[0], starts[axis] = group * self.rows, chunk * self.size
        return starts

    def loop(self, reset, chunk, state, carry, backwards=False):
        """Call chunk(place, state of the row group, carry) on all blocks -> (state, carry)."""
        groups, count = self.counts(reset)

        def loop_over_chunks(group, carry):
            state, carry = carry

            def one(i, inner):
                return chunk((group, count - 1 - i if backwards else i), *inner)

            some = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, group * self.rows, self.rows), state
            )
            some, carry = jax.lax.fori_loop(0, count, one, (some, carry))
            state = jax.tree.map(
                lambda x, part: jax.lax.dynamic_update_slice_in_dim(x, part, group * self.rows, 0),
                state,
                some,
            )
            return state, carry

        if groups == 1:
            return loop_over_chunks(0, (state, carry))
        return jax.lax.fori_loop(0, groups, loop_over_chunks, (state, carry))


def _forward(body, grid, state, tokens, reset, params):
    groups, count = grid.counts(reset)

    def read(place):
        return _barrier(tuple(grid.cut(x, place) for x in tokens)), grid.cut(reset, place, 1)

    def first():
        some = jax.tree.map(lambda x: x[: grid.rows], state)
        return body(some, *read((0, 0)), params, None)

    (some, y), kept = jax.eval_shape(first)

    def chunk(place, state, carry):
        ys, entered, keeps = carry
        entered = _store(entered, state, place)
        (state, y), kept = body(state, *read(place), params, None)
        return state, (grid.put(ys, y, place), entered, _store(keeps, kept, place))

    shape = list(y.shape)
    shape[0], shape[grid.axis] = reset.shape[0], count * grid.size
    empty = [
        jax.tree.map(lambda x: jax.lax.empty((groups, count, *x.shape), x.dtype), z)
        for z in (some, kept)
    ]
    carry = cast_like((jax.lax.empty(tuple(shape), y.dtype), *empty), tokens)
    state, (ys, *kept) = grid.loop(reset, chunk, state, carry)
    return (state, ys), (tokens, reset, params, *name_boundary_states(tuple(kept)))


def _backward(body, grid, saved, cotangents):
    tokens, reset, params, states, keeps = saved
    d_state, d_ys = cotangents

    def chunk(place, d_state, carry):
        d_tokens, d_params = carry
        entered, kept = _barrier(jax.tree.map(lambda all: _take(all, place), (states, keeps)))

        def replay(state, tokens, params):
            return body(state, tokens, grid.cut(reset, place, 1), params, kept)[0]

        parts, d_y = _barrier((tuple(grid.cut(x, place) for x in tokens), grid.cut(d_ys, place)))
        _, back = jax.vjp(replay, entered, parts, params)
        d_state, d_parts, more = back((d_state, d_y))
        pairs = zip(d_tokens, d_parts, strict=True)
        d_tokens = tuple(grid.put(all, part, place) for all, part in pairs)
        return d_state, (d_tokens, jax.tree.map(jnp.add, d_params, more))

    d_tokens = cast_like(tuple(jax.lax.empty(x.shape, x.dtype) for x in tokens), tokens)
    carry = (d_tokens, zeros_like(params))
    d_state, (d_tokens, d_params) = grid.loop(reset, chunk, d_state, carry, backwards=True)
    return d_state, d_tokens, None, d_params


def _barrier(parts):
    """Materialize a slice; otherwise every fusion that consumes it re-reads the full array."""
    return jax.lax.optimization_barrier(parts)


def _store(all, one, place):
    def put(all, one):
        start = (*place, *[0] * one.ndim)
        return jax.lax.dynamic_update_slice(all, one.astype(all.dtype)[None, None], start)

    return jax.tree.map(put, all, one)


def _take(all, place):
    sizes = (1, 1, *all.shape[2:])
    return jax.lax.dynamic_slice(all, (*place, *[0] * (all.ndim - 2)), sizes)[0, 0]
