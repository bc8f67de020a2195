"""Recurrence of RWKV-7 as a Pallas TPU kernel, fused with the element-wise work around it.

The algorithm is that of `chunked.py`, on one row and packs of heads (`head_packing.py`). Only y,
the states at chunk boundaries and the inverse leave VMEM; the backward pass loads the inverse,
replays the chunk and differentiates it. States are transposed, so that decays are along the lanes.

On a TPU its matmuls, including the solve and the state, are three bfloat16 passes (`dot` of
`common/pallas_tpu.py`): 16 bits per factor, not the 24 of `chunked.py`. Cumulative sums of decays
are float32. `tests/ops/test_pallas.py` bounds the error at 2e-4 of the largest entry.

Shapes: B batch, T time, H heads, N head size, C = H N, c chunk size, n chunks, P heads per pack,
M = H / P packs.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxmodels.ops.common.chunks import segment_ids
from jaxmodels.ops.common.pallas_tpu import (
    LANES,
    aligned_chunk_size,
    float32_array,
    interleave,
    kernel_call,
    lane_blocks,
    specs_over_time,
)
from jaxmodels.ops.common.varying import cast_alike
from jaxmodels.ops.dplr.pallas_chunk import Chunk, Sizes, masks_of

PACKS = 4  # per block: while one waits for a matmul, the others compute


def dplr_pallas(mix, state, tokens, shared, reset=None, *, chunk_size=64):
    """Run the recurrence as a TPU kernel, interpreted on other platforms; see `ops.dplr.dplr`.

    Keys and values have size N. `mix` gets arrays (c, P N) and vectors (1, P N).
    """
    batch, time, width = tokens[0].shape
    heads, head = state.shape[1:3]
    pack = min(max(LANES // head, 1), heads)
    packs, filled = lane_blocks(-(-heads // pack), pack * head, PACKS * pack * head)
    size = aligned_chunk_size(chunk_size, time)
    sizes = Sizes(size, head, pack, packs)
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    fill = filled * pack - heads  # heads of zeros

    def padded(x):  # zero tokens neither decay nor write
        return jnp.pad(x.astype(jnp.float32), [(0, 0), (0, -time % size), (0, fill * head)])

    tokens = tuple(map(padded, tokens))
    reset = jnp.pad(reset, [(0, 0), (0, -time % size)])
    ids = segment_ids(reset.reshape(batch, -1, size))  # (B, n, c)
    shared = jax.tree.map(lambda x: jnp.pad(x.reshape(-1), (0, fill * head))[None], shared)
    packed = jnp.pad(state.astype(jnp.float32), [(0, 0), (0, fill), (0, 0), (0, 0)])
    packed = packed.reshape(batch, -1, pack, head, head)
    packed = packed.transpose(0, 1, 4, 2, 3).reshape(batch, -1, head, pack * head)
    y, packed = _runner(mix, sizes)(*cast_alike(packed, tokens, shared, ids))
    packed = packed.reshape(batch, -1, head, pack, head).transpose(0, 1, 3, 4, 2)
    return packed.reshape(batch, -1, head, head)[:, :heads], y[:, :time, :width]


def _runner(mix, sizes):
    """Build run(state (B, M, N, P N), tokens (B, T, C), shared (1, C), ids (B, n, c)).

    It returns (y, state).
    """

    @jax.custom_vjp
    def run(state, tokens, shared, ids):
        return forward(state, tokens, shared, ids)[0]

    def forward(state, tokens, shared, ids):
        specs = _Specs(sizes, state, ids, backwards=False)
        flat, tree = jax.tree.flatten(shared)
        boundary = (state.shape[0], ids.shape[1], *state.shape[1:])
        y, state, boundaries, inverses = kernel_call(
            _forward_kernel(mix, sizes, tree, len(tokens)),
            "dplr_forward",
            grid=specs.grid,
            in_specs=[specs.id_column, specs.id_row, specs.state]
            + [specs.tokens] * len(tokens)
            + [specs.vector] * len(flat),
            out_specs=[specs.tokens, specs.state, specs.boundary, specs.inverse],
            out_shape=[
                float32_array(*tokens[0].shape),
                float32_array(*state.shape),
                float32_array(*boundary),
                float32_array(*boundary[:3], sizes.chunk, sizes.pack * sizes.chunk),
            ],
            scratch_shapes=[pltpu.VMEM((sizes.packs, sizes.head, sizes.lanes), jnp.float32)],
            semantics=("parallel", "parallel", "arbitrary"),
        )(ids[..., None], ids[:, :, None], state, *tokens, *flat)
        return (y, state), (tokens, shared, ids, boundaries, inverses)

    def backward(saved, cotangents):
        tokens, shared, ids, boundaries, inverses = saved
        d_y, d_state = cotangents
        specs = _Specs(sizes, d_state, ids, backwards=True)
        flat, tree = jax.tree.flatten(shared)
        d_state, *d_tokens_and_shared = kernel_call(
            _backward_kernel(mix, sizes, tree, len(tokens)),
            "dplr_backward",
            grid=specs.grid,
            in_specs=[specs.id_column, specs.id_row, specs.state, specs.boundary, specs.inverse]
            + [specs.tokens] * (len(tokens) + 1)
            + [specs.vector] * len(flat),
            out_specs=[specs.state] + [specs.tokens] * len(tokens) + [specs.row_vector] * len(flat),
            out_shape=[float32_array(*x.shape) for x in (d_state, *[tokens[0]] * len(tokens))]
            + [float32_array(ids.shape[0], *x.shape) for x in flat],
            scratch_shapes=[pltpu.VMEM((sizes.packs, sizes.head, sizes.lanes), jnp.float32)],
            semantics=("parallel", "parallel", "arbitrary"),
        )(ids[..., None], ids[:, :, None], d_state, boundaries, inverses, d_y, *tokens, *flat)
        d_tokens = tuple(d_tokens_and_shared[: len(tokens)])
        d_flat = [x.sum(0) for x in d_tokens_and_shared[len(tokens) :]]
        return d_state, d_tokens, jax.tree.unflatten(tree, d_flat), None

    run.defvjp(forward, backward)
    return run


class _Specs:
    """Grid (batch row, block of packs, chunk) and block specs of each kind of array."""

    def __init__(self, sizes, states, ids, backwards):
        chunks = ids.shape[1]
        self.grid = (states.shape[0], states.shape[1] // sizes.packs, chunks)
        lanes = sizes.packs * sizes.lanes

        spec = specs_over_time(chunks, 2, backwards=backwards)
        size, packs, pairs = sizes.chunk, sizes.packs, sizes.pack * sizes.chunk
        self.tokens = spec((1, size, lanes), lambda b, m, t: (b, t, m))
        self.id_column = spec((1, 1, size, 1), lambda b, m, t: (b, t, 0, 0))
        self.id_row = spec((1, 1, 1, size), lambda b, m, t: (b, t, 0, 0))
        self.vector = spec((1, lanes), lambda b, m, t: (0, m))
        self.row_vector = spec((1, 1, lanes), lambda b, m, t: (b, 0, m))
        state = (packs, sizes.head, sizes.lanes)
        self.state = spec((1, *state), lambda b, m, t: (b, m, 0, 0))
        self.boundary = spec((1, 1, *state), lambda b, m, t: (b, t, m, 0, 0))
        self.inverse = spec((1, 1, packs, size, pairs), lambda b, m, t: (b, t, m, 0, 0))


def _forward_kernel(mix, sizes, tree, count):
    def kernel(id_column, id_row, start, *refs, exact):
        tokens, shared = refs[:count], refs[count : count + tree.num_leaves]
        y, final, boundaries, inverses, states = refs[count + tree.num_leaves :]

        @pl.when(pl.program_id(2) == 0)
        def _():
            states[...] = start[0]

        boundaries[0, 0] = states[...]
        masks = masks_of(sizes, id_column[0, 0], id_row[0, 0])
        chunk = Chunk(sizes, exact, masks)
        arguments = [
            (
                states[p],
                tuple(x[0, :, at] for x in tokens),
                jax.tree.unflatten(tree, [x[:, at] for x in shared]),
            )
            for p, at in _places(sizes)
        ]
        results = interleave(lambda *each: chunk.mixed(mix, *each, None), arguments)
        for (p, at), ((state, out), inverse) in zip(_places(sizes), results, strict=True):
            states[p], y[0, :, at], inverses[0, 0, p] = state, out, inverse
        final[0] = states[...]

    return kernel


def _backward_kernel(mix, sizes, tree, count):
    def kernel(id_column, id_row, d_final, boundaries, inverses, d_y, *refs, exact):
        tokens, shared = refs[:count], refs[count : count + tree.num_leaves]
        d_start, *refs = refs[count + tree.num_leaves :]
        d_tokens, d_shared, d_states = refs[:count], refs[count:-1], refs[-1]

        @pl.when(pl.program_id(2) == 0)
        def _():
            d_states[...] = d_final[0]
            for ref in d_shared:
                ref[...] = jnp.zeros_like(ref)

        masks = masks_of(sizes, id_column[0, 0], id_row[0, 0])
        chunk = Chunk(sizes, exact, masks)

        def back(state, parts, vectors, inverse, cotangents):
            def again(*each):
                return chunk.mixed(mix, *each, inverse)[0]

            return jax.vjp(again, state, parts, vectors)[1](cotangents)

        arguments = [
            (
                boundaries[0, 0, p],
                tuple(x[0, :, at] for x in tokens),
                jax.tree.unflatten(tree, [x[:, at] for x in shared]),
                inverses[0, 0, p],
                (d_states[p], d_y[0, :, at]),
            )
            for p, at in _places(sizes)
        ]
        results = interleave(back, arguments)
        for (p, at), (d_state, d_parts, d_vectors) in zip(_places(sizes), results, strict=True):
            d_states[p] = d_state
            for ref, part in zip(d_tokens, d_parts, strict=True):
                ref[0, :, at] = part
            for ref, part in zip(d_shared, jax.tree.leaves(d_vectors), strict=True):
                ref[0, :, at] += part
        d_start[0] = d_states[...]

    return kernel


def _places(sizes):
    """Return (index, lane slice) of each pack of a block."""
    return [(p, slice(p * sizes.lanes, (p + 1) * sizes.lanes)) for p in range(sizes.packs)]
