"""Weighted average of RWKV-4 as a Pallas TPU kernel: token by token, in VMEM.

It runs the step and derivative of `chunked.py`. The recurrence is bound by HBM traffic; the kernel
reads k and v and writes y once. The backward pass stores the state before each block of tokens and
replays the block. Batch rows are the sublanes of a register, so multiples of 8 are efficient.
Shapes: B batch, T time, C width, n blocks of c tokens.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxmodels.ops.common.pallas_tpu import (
    LANES,
    SUBLANES,
    float32_array,
    kernel_call,
    specs_over_time,
)
from jaxmodels.ops.common.varying import cast_alike
from jaxmodels.ops.wkv4.chunked import EMPTY, WKV4State, wkv4_token, wkv4_token_back
from jaxmodels.ragged import hold_after

TOKENS, WIDTH = 32, 512  # block size
FIRST, HELD = 1, 2  # marks of a document's first token, and of padding


def wkv4_pallas(state: WKV4State, k, v, decay, bonus, reset=None, lengths=None):
    """Run as a TPU kernel, interpreted on other platforms; see `ops.wkv4.wkv4`."""
    batch, time, width = k.shape
    lanes = min(WIDTH, -(-width // LANES) * LANES)
    tokens = min(TOKENS, time)
    by_time = functools.partial(_padded, to=(tokens, SUBLANES, lanes))
    by_row = functools.partial(_padded, to=(SUBLANES, lanes))
    k, v = (by_time(x.astype(jnp.float32).swapaxes(0, 1)) for x in (k, v))
    state = [by_row(x.astype(jnp.float32)) for x in state]
    decay, bonus = (_padded(x[None], to=(1, lanes)) for x in (decay, bonus))
    marks = None if reset is None else FIRST * reset
    if lengths is not None:
        marks = jnp.where(hold_after(lengths, time), HELD, 0 if marks is None else marks)
    if marks is not None:
        marks = jnp.broadcast_to(marks.T[:, :, None].astype(jnp.int32), (time, batch, LANES))
        marks = _padded(marks, to=(tokens, SUBLANES, LANES))
    arrays = cast_alike(state, k, v, decay, bonus, marks)
    y, *state = _run(time, (tokens, lanes), *arrays)
    state = WKV4State(*(x[:batch, :width] for x in state))
    return state, y[:time, :batch, :width].swapaxes(0, 1)


def _padded(x, to):
    """Zero-pad x at the end to multiples of `to` along its axes."""
    return jnp.pad(x, [(0, -size % block) for size, block in zip(x.shape, to, strict=True)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(time, block, state, k, v, decay, bonus, marks):
    """Run on padded arrays -> y (T, B, C), p, q, o (B, C).

    state: p, q, o (B, C); k, v: (T, B, C); decay, bonus: (1, C).
    marks: int32 (T, B, LANES), FIRST, HELD or 0; or None.
    """
    return _forward(time, block, state, k, v, decay, bonus, marks, keep=False)


def _forward(time, block, state, k, v, decay, bonus, marks, *, keep):
    specs, grid, call = _layout(block, k, marks)
    outs = [(k.shape, specs.tokens)] + [(x.shape, specs.rows) for x in state]
    if keep:
        outs += [((grid[2], *x.shape), specs.boundary) for x in state]
    inputs = [specs.tokens] * 2 + [specs.vector] * 2 + [specs.rows] * 3
    return call(
        functools.partial(_forward_block, time, keep),
        "wkv4_forward",
        inputs=inputs,
        outputs=[spec for _, spec in outs],
        shapes=[float32_array(*dims) for dims, _ in outs],
        arguments=(k, v, decay, bonus, *state),
    )


def _run_forward(time, block, state, k, v, decay, bonus, marks):
    y, p, q, o, *boundaries = _forward(time, block, state, k, v, decay, bonus, marks, keep=True)
    return (y, p, q, o), (boundaries, k, v, decay, bonus, marks)


def _run_backward(time, block, saved, cotangents):
    boundaries, k, v, decay, bonus, marks = saved
    d_y, d_p, d_q, _ = cotangents
    specs, _, call = _layout(block, k, marks, backwards=True)
    tokens, lanes = block
    d_k, d_v, d_p, d_q, d_w, d_u = call(
        functools.partial(_backward_block, time),
        "wkv4_backward",
        inputs=[specs.tokens] * 3 + [specs.vector] * 2 + [specs.boundary] * 3 + [specs.rows] * 2,
        outputs=[specs.tokens] * 2 + [specs.rows] * 4,
        shapes=[float32_array(*x.shape) for x in (k, k, d_p, d_p, d_p, d_p)],
        arguments=(k, v, d_y, decay, bonus, *boundaries, d_p, d_q),
        scratch=[pltpu.VMEM((tokens, SUBLANES, lanes), jnp.float32)] * 3,
    )
    d_state = [d_p, d_q, jnp.zeros_like(d_p)]
    return d_state, d_k, d_v, d_w.sum(0, keepdims=True), d_u.sum(0, keepdims=True), None


_run.defvjp(_run_forward, _run_backward)


class _Specs:
    """Block specs of tokens (T, B, C), marks, rows (B, C), boundary (n, B, C), vector (1, C)."""

    def __init__(self, block, blocks, backwards):
        tokens, lanes = block
        spec = specs_over_time(blocks, 2, backwards=backwards)
        self.tokens = spec((tokens, SUBLANES, lanes), lambda b, c, t: (t, b, c))
        self.marks = spec((tokens, SUBLANES, LANES), lambda b, c, t: (t, b, 0))
        self.rows = pl.BlockSpec((SUBLANES, lanes), lambda b, c, t: (b, c))
        self.boundary = spec((1, SUBLANES, lanes), lambda b, c, t: (t, b, c))
        self.vector = pl.BlockSpec((1, lanes), lambda b, c, t: (0, c))


def _layout(block, k, marks, backwards=False):
    """Return (specs, grid, function that calls a kernel on them)."""
    tokens, lanes = block
    time, batch, width = k.shape
    grid = (batch // SUBLANES, width // lanes, time // tokens)
    specs = _Specs(block, grid[2], backwards)

    def call(body, name, *, inputs, outputs, shapes, arguments, scratch=()):
        if marks is not None:
            inputs, arguments = [specs.marks, *inputs], (marks, *arguments)
        else:
            body = functools.partial(body, None)
        return kernel_call(
            body,
            name,
            grid=grid,
            in_specs=inputs,
            out_specs=outputs,
            out_shape=shapes,
            scratch_shapes=scratch,
            semantics=("parallel", "parallel", "arbitrary"),
        )(*arguments)

    return specs, grid, call


def _forward_block(
    time, keep, marks, k, v, decay, bonus, p0, q0, o0, y, p, q, o, *boundaries, exact
):
    """Run one block of tokens; arguments are refs, of which p, q, o carry the state."""
    place = pl.program_id(2)

    @pl.when(place == 0)
    def _():
        for ref, start in zip((p, q, o), (p0, q0, o0), strict=True):
            ref[...] = start[...]

    state = (p[...], q[...], o[...])
    if keep:
        for ref, now in zip(boundaries, state, strict=True):
            ref[0] = now
    w, u = decay[...], bonus[...]

    def token(t, state):
        after, now = wkv4_token(_apply_reset(state, marks, t), k[t], v[t], w, u)
        y[t] = now
        after = _if_not_held(marks, t, tuple(after), state)
        return _if_real(time, k, t, after, state, place)

    state = jax.lax.fori_loop(0, k.shape[0], token, state, unroll=4)
    for ref, now in zip((p, q, o), state, strict=True):
        ref[...] = now


def _backward_block(time, marks, k, v, d_y, decay, bonus, p0, q0, o0, d_p0, d_q0, *refs, exact):
    d_k, d_v, d_p, d_q, d_w, d_u, *before = refs
    place = pl.num_programs(2) - 1 - pl.program_id(2)

    @pl.when(pl.program_id(2) == 0)
    def _():
        d_p[...], d_q[...] = d_p0[...], d_q0[...]
        d_w[...], d_u[...] = jnp.zeros_like(d_w), jnp.zeros_like(d_u)

    w, u = decay[...], bonus[...]

    def again(t, state):
        state = _apply_reset(state, marks, t)
        for ref, now in zip(before, state, strict=True):
            ref[t] = now
        return _if_not_held(marks, t, tuple(wkv4_token(state, k[t], v[t], w, u)[0]), state)

    jax.lax.fori_loop(0, k.shape[0], again, (p0[0], q0[0], o0[0]), unroll=4)

    def token(i, carry):
        t = k.shape[0] - 1 - i
        d_state, d_w, d_u = carry
        state = tuple(ref[t] for ref in before)
        back = wkv4_token_back(state, k[t], v[t], w, u, d_y[t], d_state)
        if marks is not None:
            d_before, *others = back
            first = _marked(FIRST, marks, t, others[0])
            d_before = tuple(jnp.where(first, 0.0, x) for x in d_before)
            nothing = (d_state, *map(jnp.zeros_like, others))
            back = _if_not_held(marks, t, (d_before, *others), nothing)
        d_before, d_k[t], d_v[t], d_decay, d_bonus = back
        after = d_before, d_w + d_decay, d_u + d_bonus
        return _if_real(time, k, t, after, carry, place)

    carry = (d_p[...], d_q[...]), d_w[...], d_u[...]
    carry = jax.lax.fori_loop(0, k.shape[0], token, carry, unroll=2)
    (d_p[...], d_q[...]), d_w[...], d_u[...] = carry


def _marked(mark, marks, t, like):
    return jnp.tile(marks[t], (1, like.shape[1] // LANES)) == mark


def _apply_reset(state, marks, t):
    if marks is None:
        return state
    first = _marked(FIRST, marks, t, state[0])
    return tuple(
        jnp.where(first, empty, x) for x, empty in zip(state, (0.0, 0.0, EMPTY), strict=True)
    )


def _if_not_held(marks, t, after, state):
    """Return `after`, or `state` for a token of a row's padding."""
    if marks is None:
        return after
    held = _marked(HELD, marks, t, jax.tree.leaves(state)[0])
    return jax.tree.map(lambda x, y: jnp.where(held, y, x), after, state)


def _if_real(time, k, t, after, state, place):
    """Return `after`, or `state` for a token of the padding."""
    if time % k.shape[0] == 0:
        return after
    real = place * k.shape[0] + t < time
    return jax.tree.map(lambda x, y: jnp.where(real, x, y), after, state)
