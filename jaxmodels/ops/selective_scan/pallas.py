"""Selective scan of Mamba-1 as a Pallas TPU kernel: token by token, in VMEM.

Batch rows are the sublanes of a register, so multiples of 8 are efficient, and a block of channels
keeps its states in registers. b and c come repeated over 128 lanes, and leave their gradients so,
which saves the kernel to move numbers across lanes, the slowest of its operations. The backward
pass stores the state before each block of tokens and replays the block. Shapes: B batch, T time, N
state size, D channels.
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

TOKENS = 32  # per block
UNROLL, UNROLL_BACK = 8, 4  # tokens whose operations the compiler may interleave


def selective_scan_pallas(state, x, delta, a, b, c, reset=None, *, chunk_size=None):
    """Run as a TPU kernel, interpreted on other platforms; see `ops.selective_scan`."""
    del chunk_size
    batch, time, width = x.shape
    tokens = min(TOKENS, time)

    def by_time(z, lanes):  # padding has delta = 0, so it changes no state
        z = z.astype(jnp.float32).swapaxes(0, 1)
        return _padded(z, (tokens, SUBLANES, lanes))

    def repeated(z):  # (T, N, B, LANES)
        z = by_time(z, 1).swapaxes(1, 2)
        return jnp.broadcast_to(z[..., None], (*z.shape, LANES))

    x, delta, b, c = by_time(x, LANES), by_time(delta, LANES), repeated(b), repeated(c)
    state = _padded(state.astype(jnp.float32).swapaxes(0, 1), (1, SUBLANES, LANES))
    a = _padded(jnp.broadcast_to(a[:, None], (a.shape[0], SUBLANES, width)), (1, 1, LANES))
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    marks = jnp.broadcast_to(reset.T[:, :, None].astype(jnp.int32), (time, batch, LANES))
    marks = _padded(marks, (tokens, SUBLANES, 1))
    y, state = _run(tokens, *cast_alike(state, x, delta, b, c, a, marks))
    return state[:, :batch, :width].swapaxes(0, 1), y[:time, :batch, :width].swapaxes(0, 1)


def _padded(x, to):
    """Zero-pad x at the end to multiples of `to` along its axes."""
    return jnp.pad(x, [(0, -size % block) for size, block in zip(x.shape, to, strict=True)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(tokens, state, x, delta, b, c, a, marks):
    """Run on padded arrays -> y (T, B, D), state (N, B, D).

    x, delta: (T, B, D); b, c: (T, N, B, LANES); a: (N, 8, D), its rows equal; marks: int32 (T, B,
    LANES), 1 at a document's first token.
    """
    return _forward(tokens, state, x, delta, b, c, a, marks, keep=False)[:2]


def _forward(tokens, state, x, delta, b, c, a, marks, *, keep):
    specs = _Specs(tokens, x, state, backwards=False)
    outputs, shapes = [specs.channels, specs.final], [x.shape, state.shape]
    if keep:
        outputs.append(specs.boundary)
        shapes.append((specs.grid[1], *state.shape))
    return kernel_call(
        functools.partial(_forward_block, keep),
        "selective_scan_forward",
        grid=specs.grid,
        in_specs=[*specs.inputs, specs.start],
        out_specs=outputs,
        out_shape=[float32_array(*dims) for dims in shapes],
        scratch_shapes=[specs.memory],
        semantics=("parallel", "arbitrary", "arbitrary"),
    )(marks, x, delta, b, c, a, state)


def _run_forward(tokens, state, *rest):
    y, state, boundaries = _forward(tokens, state, *rest, keep=True)
    return (y, state), (boundaries, *rest)


def _run_backward(tokens, saved, cotangents):
    boundaries, x, delta, b, c, a, marks = saved
    d_y, d_state = cotangents
    specs = _Specs(tokens, x, d_state, backwards=True)
    rows = (*a.shape[:1], *d_state.shape[1:])
    d_x, d_delta, d_b, d_c, d_a, d_state = kernel_call(
        _backward_block,
        "selective_scan_backward",
        grid=specs.grid,
        in_specs=[*specs.inputs, specs.channels, specs.boundary, specs.start],
        out_specs=[specs.channels] * 2 + [specs.numbers] * 2 + [specs.final] * 2,
        out_shape=[float32_array(*z.shape) for z in (x, x, b, b)]
        + [float32_array(*rows), float32_array(*rows)],
        scratch_shapes=[specs.memory, specs.memory, specs.replayed],
        semantics=("parallel", "arbitrary", "arbitrary"),
    )(marks, x, delta, b, c, a, d_y, boundaries, d_state)
    d_a = d_a.reshape(a.shape[0], -1, *a.shape[1:]).sum(1)
    return d_state, d_x, d_delta, d_b, d_c, d_a, None


_run.defvjp(_run_forward, _run_backward)


class _Specs:
    """Grid (8 rows, block of tokens, block of channels) and block specs of each kind of array."""

    def __init__(self, tokens, x, state, backwards):
        time, batch, width = x.shape
        states = state.shape[0]
        self.grid = (batch // SUBLANES, time // tokens, width // LANES)
        entries = (states, SUBLANES, LANES)
        self.memory = pltpu.VMEM((self.grid[2], *entries), jnp.float32)
        self.replayed = pltpu.VMEM((tokens, *entries), jnp.float32)
        spec = specs_over_time(self.grid[1], 1, backwards=backwards)
        self.channels = spec((tokens, SUBLANES, LANES), lambda b, t, d: (t, b, d))
        self.numbers = spec((tokens, *entries), lambda b, t, d: (t, 0, b, 0))
        marks = spec((tokens, SUBLANES, LANES), lambda b, t, d: (t, b, 0))
        self.boundary = spec((1, *entries), lambda b, t, d: (t, 0, b, d))
        rates = pl.BlockSpec(entries, lambda b, t, d: (0, 0, d))
        # Each block of channels is loaded and stored once, not once per block of tokens.
        last_time, last = self.grid[1] - 1, self.grid[2] - 1
        self.start = pl.BlockSpec(entries, lambda b, t, d: (0, b, jnp.where(t == 0, d, last)))
        self.final = pl.BlockSpec(entries, lambda b, t, d: (0, b, jnp.where(t == last_time, d, 0)))
        self.inputs = [marks, self.channels, self.channels, self.numbers, self.numbers, rates]


def _entering(marks, t, h):
    return jnp.where(marks[t] == 1, 0.0, h)


def _forward_block(keep, marks, x, delta, b, c, a, start, y, final, *refs, exact):
    """Run one block of tokens and channels; arguments are refs."""
    del exact
    *boundary, states = refs
    block, count = pl.program_id(2), a.shape[0]

    @pl.when(pl.program_id(1) == 0)
    def _():
        states[block] = start[...]

    if keep:
        boundary[0][0] = states[block]

    def token(t, h):
        d = delta[t]
        written = d * x[t]
        after, total = [], jnp.zeros_like(d)
        for n in range(count):
            kept = jnp.exp(d * a[n]) * _entering(marks, t, h[n])
            after.append(kept + written * b[t, n])
            total = total + after[-1] * c[t, n]
        y[t] = total
        return tuple(after)

    h = tuple(states[block, n] for n in range(count))
    for n, after in enumerate(jax.lax.fori_loop(0, x.shape[0], token, h, unroll=UNROLL)):
        states[block, n] = after
    final[...] = states[block]


def _backward_block(marks, x, delta, b, c, a, d_y, boundary, d_final, *refs, exact):
    """Differentiate one block of tokens and channels; arguments are refs."""
    del exact
    d_x, d_delta, d_b, d_c, d_a, d_start, d_states, rates, replayed = refs
    block, count, size = pl.program_id(2), a.shape[0], x.shape[0]

    @pl.when(pl.program_id(1) == 0)
    def _():
        d_states[block] = d_final[...]
        rates[block] = jnp.zeros_like(rates[block])

    def add(ref, t, n, part):  # to the sum over blocks of channels
        ref[t, n] = part + jnp.where(block == 0, 0.0, ref[t, n])

    def again(t, h):
        d = delta[t]
        written, after = d * x[t], []
        for n in range(count):
            kept = jnp.exp(d * a[n]) * _entering(marks, t, h[n])
            replayed[t, n] = kept
            after.append(kept + written * b[t, n])
        return tuple(after)

    jax.lax.fori_loop(0, size, again, tuple(boundary[0, n] for n in range(count)), unroll=UNROLL)

    def token(i, carry):
        t = size - 1 - i
        g, d_rates = carry
        d, now, d_now = delta[t], x[t], d_y[t]
        written = d * now
        d_written, d_step = jnp.zeros_like(d), jnp.zeros_like(d)
        before, rates_after = [], []
        for n in range(count):
            kept, own = replayed[t, n], b[t, n]
            flow = g[n] + d_now * c[t, n]
            d_exponent = flow * kept
            d_written = d_written + flow * own
            d_step = d_step + d_exponent * a[n]
            rates_after.append(d_rates[n] + d_exponent * d)
            add(d_b, t, n, flow * written)
            add(d_c, t, n, (kept + written * own) * d_now)
            before.append(_entering(marks, t, jnp.exp(d * a[n]) * flow))
        d_x[t], d_delta[t] = d_written * d, d_step + d_written * now
        return tuple(before), tuple(rates_after)

    carry = (
        tuple(d_states[block, n] for n in range(count)),
        tuple(rates[block, n] for n in range(count)),
    )
    g, d_rates = jax.lax.fori_loop(0, size, token, carry, unroll=UNROLL_BACK)
    for n in range(count):
        d_states[block, n], rates[block, n] = g[n], d_rates[n]
    d_start[...], d_a[...] = d_states[block], rates[block]
