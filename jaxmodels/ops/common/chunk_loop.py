"""A recurrence over chunks of time, with a backward pass that reads time backwards.

A scan over chunks cuts its inputs into an array with the chunks in front, stacks its outputs in
another, and its derivative keeps whatever the chunk's derivative may want. Here the loop reads each
chunk out of the tokens where they are, writes its outputs where they belong, and keeps the states
between chunks alone: the backward pass computes a chunk again.
"""

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.chunks import name_boundary_states


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
    """`body` over chunks of `chunk_size` tokens, the last one shorter if need be.

    Args:
      body: called as body(state, tokens, reset, params, kept) with the tokens and resets of a
        chunk, of any length; returns ((state, y), kept). The forward pass calls it with kept None;
        what it then returns as kept, an array, it is given when it runs again for the backward
        pass, so that what is dear to compute is computed once. No gradient goes through kept. All
        arrays that body uses are its arguments, none comes from around it.
      state: pytree of (batch, ...), before the first token.
      tokens: tuple of floating arrays (batch, ...) with time on `time_axis`.
      reset: bool (batch, time).
      params: pytree of floating arrays that all chunks share.
      chunk_size: tokens a chunk.
      time_axis: of tokens and of y.
      rows: how many rows of the batch are read at a time, a divisor of their number; None: all. So
        many that what is made of a chunk stays in fast memory.

    Returns:
      (state after the last token, y (batch, ...) with time on `time_axis`).
    """
    time = reset.shape[1]
    whole = time - time % chunk_size if time > chunk_size else 0
    if whole == 0:
        return body(state, tokens, reset, params, None)[0]
    run = _loop(body, chunk_size, time_axis, rows or reset.shape[0])
    if whole == time:
        return run(state, tokens, reset, params)

    def part(x, start, stop, axis=time_axis):
        return jax.lax.slice_in_dim(x, start, stop, axis=axis)

    parts = (tuple(part(x, 0, whole) for x in tokens), part(reset, 0, whole, 1))
    rest = (tuple(part(x, whole, time) for x in tokens), part(reset, whole, time, 1))
    state, y = run(state, *parts, params)
    (state, tail), _ = body(state, *rest, params, None)
    return state, jnp.concatenate([y, tail], time_axis)


def _loop(body, size, axis, rows):
    """The loop over whole chunks: (state, tokens, reset, params) -> (state, y)."""

    def start(x, place, axis):
        group, chunk = place
        starts = [0] * x.ndim
        starts[0], starts[axis] = group * rows, chunk * size
        return starts

    def cut(x, place, axis=axis):
        sizes = list(x.shape)
        sizes[0], sizes[axis] = rows, size
        return jax.lax.dynamic_slice(x, start(x, place, axis), sizes)

    def put(x, part, place):
        return jax.lax.dynamic_update_slice(x, part.astype(x.dtype), start(x, place, axis))

    def over(reset, chunk, state, carry, backwards=False):
        """chunk(place, state of some rows, carry) over all places -> (state, carry)."""
        groups, count = reset.shape[0] // rows, reset.shape[1] // size

        def rows_of(group, carry):
            state, carry = carry

            def one(i, inner):
                return chunk((group, count - 1 - i if backwards else i), *inner)

            some = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, group * rows, rows), state
            )
            some, carry = jax.lax.fori_loop(0, count, one, (some, carry))
            state = jax.tree.map(
                lambda x, part: jax.lax.dynamic_update_slice_in_dim(x, part, group * rows, 0),
                state,
                some,
            )
            return state, carry

        if groups == 1:
            return rows_of(0, (state, carry))
        return jax.lax.fori_loop(0, groups, rows_of, (state, carry))

    @jax.custom_vjp
    def run(state, tokens, reset, params):
        return forward(state, tokens, reset, params)[0]

    def forward(state, tokens, reset, params):
        groups, count = reset.shape[0] // rows, reset.shape[1] // size

        def parts(place):
            return _barrier(tuple(cut(x, place) for x in tokens)), cut(reset, place, 1)

        def first():
            some = jax.tree.map(lambda x: x[:rows], state)
            return body(some, *parts((0, 0)), params, None)

        (some, y), kept = jax.eval_shape(first)

        def chunk(place, state, carry):
            ys, borders, keeps = carry
            borders = _store(borders, state, place)
            (state, y), kept = body(state, *parts(place), params, None)
            return state, (put(ys, y, place), borders, _store(keeps, kept, place))

        shape = list(y.shape)
        shape[0], shape[axis] = reset.shape[0], count * size
        empty = [
            jax.tree.map(lambda x: jax.lax.empty((groups, count, *x.shape), x.dtype), z)
            for z in (some, kept)
        ]
        carry = (jax.lax.empty(tuple(shape), y.dtype), *empty)
        state, (ys, *kept) = over(reset, chunk, state, carry)
        return (state, ys), (tokens, reset, params, *name_boundary_states(tuple(kept)))

    def backward(saved, cotangents):
        tokens, reset, params, borders, keeps = saved
        d_state, d_ys = cotangents

        def chunk(place, d_state, carry):
            d_tokens, d_params = carry
            entered, kept = _barrier(jax.tree.map(lambda all: _take(all, place), (borders, keeps)))

            def again(state, tokens, params):
                return body(state, tokens, cut(reset, place, 1), params, kept)[0]

            parts, d_y = _barrier((tuple(cut(x, place) for x in tokens), cut(d_ys, place)))
            _, back = jax.vjp(again, entered, parts, params)
            d_state, d_parts, more = back((d_state, d_y))
            pairs = zip(d_tokens, d_parts, strict=True)
            d_tokens = tuple(put(all, part, place) for all, part in pairs)
            return d_state, (d_tokens, jax.tree.map(jnp.add, d_params, more))

        d_tokens = tuple(jax.lax.empty(x.shape, x.dtype) for x in tokens)
        carry = (d_tokens, jax.tree.map(jnp.zeros_like, params))
        d_state, (d_tokens, d_params) = over(reset, chunk, d_state, carry, backwards=True)
        return d_state, d_tokens, None, d_params

    run.defvjp(forward, backward)
    return run


def _barrier(parts):
    """Or each of the many fusions that want a part reads it from the large array anew."""
    return jax.lax.optimization_barrier(parts)


def _store(all, one, place):
    def put(all, one):
        start = (*place, *[0] * one.ndim)
        return jax.lax.dynamic_update_slice(all, one.astype(all.dtype)[None, None], start)

    return jax.tree.map(put, all, one)


def _take(all, place):
    sizes = (1, 1, *all.shape[2:])
    return jax.lax.dynamic_slice(all, (*place, *[0] * (all.ndim - 2)), sizes)[0, 0]
