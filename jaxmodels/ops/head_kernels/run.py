"""Run a chunk's arithmetic over time as a TPU kernel, and differentiate it by another.

Only y, the states at chunk boundaries and what the chunk keeps leave VMEM; the backward pass loads
these, replays the chunk and differentiates it.

Shapes: B batch, T time, H heads (with those of zeros), h heads per block, n lanes per head, c chunk
size, N chunks, P heads per pack, M = H / P packs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxmodels.ops.common.chunks import segment_ids
from jaxmodels.ops.common.pallas_tpu import (
    float32_array,
    interleave,
    kernel_call,
    specs_over_time,
)
from jaxmodels.ops.common.varying import cast_alike
from jaxmodels.ops.head_kernels.heads import Heads, masks_of


class Kernel(NamedTuple):
    """What a kernel computes.

    Attributes:
      name: prefix of the kernel's name in profiles.
      body: body(heads, state, tokens, numbers, shared, kept) -> ((state, y), kept) on one pack:
        state (rows, P n), tokens (c, P n), numbers (c, P), shared (1, P n), y (c, P n). The forward
        pass gives kept None and stores what is returned as kept, the backward pass gives that.
      prepare: prepare(masks, sums, numbers) -> numbers of a block, (c, h), once for all packs.
      keeps: whether the body keeps an array (c, P c); else it returns None.
    """

    name: str
    body: object
    prepare: object
    keeps: bool


def run_kernel(kernel, sizes, fill, state, tokens, numbers, shared, reset, y_lanes):
    """Run a kernel over time.

    Args:
      kernel: `Kernel`.
      sizes, fill: of `sizes_of`.
      state: (B, H', rows, n), before the first token, for H' = H - fill.
      tokens: tuple of (B, T, H' n), any float dtype; tokens of zeros must neither decay nor write.
      numbers: tuple of (B, T, H').
      shared: pytree of vectors (H', n).
      reset: bool (B, T) or None.
      y_lanes: n of y.

    Returns:
      (state after the last token, y (B, T, H' n) float32).
    """
    batch, time, _ = tokens[0].shape
    count, rows, lanes = state.shape[1:]
    size, pack = sizes.chunk, sizes.pack
    if reset is None:
        reset = jnp.zeros((batch, time), bool)

    def padded(x):
        heads = [(0, fill * (x.shape[2] // count))]
        return jnp.pad(x.astype(jnp.float32), [(0, 0), (0, -time % size), *heads])

    tokens, numbers = tuple(map(padded, tokens)), tuple(map(padded, numbers))
    numbers = tuple(x.reshape(*x.shape[:2], -1, sizes.heads).transpose(0, 2, 1, 3) for x in numbers)
    ids = segment_ids(jnp.pad(reset, [(0, 0), (0, -time % size)]).reshape(batch, -1, size))
    shared = jax.tree.map(
        lambda x: jnp.pad(x.reshape(-1), (0, fill * (x.size // count)))[None], shared
    )
    state = jnp.pad(state.astype(jnp.float32), [(0, 0), (0, fill), (0, 0), (0, 0)])
    state = state.reshape(batch, -1, pack, rows, lanes)
    state = state.transpose(0, 1, 3, 2, 4).reshape(batch, -1, rows, pack * lanes)
    run = _runner(kernel, sizes, y_lanes * sizes.heads)
    y, state = run(*cast_alike(state, tokens, numbers, shared, ids))
    state = state.reshape(batch, -1, rows, pack, lanes).transpose(0, 1, 3, 2, 4)
    return state.reshape(batch, -1, rows, lanes)[:, :count], y[:, :time, : count * y_lanes]


def _runner(kernel, sizes, y_lanes):
    """Build run(state (B, M, rows, P n), tokens (B, T, H n), numbers (B, H / h, T, h), shared (1, H
    n), ids (B, N, c)) -> (y, state).

    y_lanes: lanes of y in a block.
    """

    @jax.custom_vjp
    def run(state, tokens, numbers, shared, ids):
        return forward(state, tokens, numbers, shared, ids)[0]

    def forward(state, tokens, numbers, shared, ids):
        specs = _Specs(sizes, state, ids, backwards=False)
        flat, tree = jax.tree.flatten(shared)
        batch, packs = state.shape[:2]
        lanes = y_lanes * (packs // sizes.packs)
        shapes = [float32_array(batch, tokens[0].shape[1], lanes), float32_array(*state.shape)]
        shapes.append(float32_array(batch, ids.shape[1], *state.shape[1:]))
        outputs = [specs.tokens(y_lanes), specs.state, specs.boundary]
        if kernel.keeps:
            outputs.append(specs.kept)
            pairs = sizes.chunk, sizes.pack * sizes.chunk
            shapes.append(float32_array(batch, ids.shape[1], packs, *pairs))
        y, state, *saved = kernel_call(
            _forward_kernel(kernel, sizes, tree, len(tokens), len(numbers)),
            f"{kernel.name}_forward",
            grid=specs.grid,
            in_specs=[*specs.ids, specs.state, *specs.given(tokens, numbers, flat)],
            out_specs=outputs,
            out_shape=shapes,
            scratch_shapes=[specs.memory],
            semantics=("parallel", "parallel", "arbitrary"),
        )(ids[..., None], ids[:, :, None], state, *tokens, *numbers, *flat)
        return (y, state), (tokens, numbers, shared, ids, saved)

    def backward(residuals, cotangents):
        tokens, numbers, shared, ids, saved = residuals
        d_y, d_state = cotangents
        specs = _Specs(sizes, d_state, ids, backwards=True)
        flat, tree = jax.tree.flatten(shared)
        given = specs.given(tokens, numbers, flat)
        d_state, *rest = kernel_call(
            _backward_kernel(kernel, sizes, tree, len(tokens), len(numbers)),
            f"{kernel.name}_backward",
            grid=specs.grid,
            in_specs=[*specs.ids, specs.state, specs.boundary]
            + [specs.kept] * kernel.keeps
            + [specs.tokens(y_lanes), *given],
            out_specs=[specs.state, *given[: len(given) - len(flat)]]
            + [specs.row_vector(x) for x in flat],
            out_shape=[float32_array(*x.shape) for x in (d_state, *tokens, *numbers)]
            + [float32_array(ids.shape[0], *x.shape) for x in flat],
            scratch_shapes=[specs.memory],
            semantics=("parallel", "parallel", "arbitrary"),
        )(ids[..., None], ids[:, :, None], d_state, *saved, d_y, *tokens, *numbers, *flat)
        d_tokens, rest = tuple(rest[: len(tokens)]), rest[len(tokens) :]
        d_numbers, rest = tuple(rest[: len(numbers)]), rest[len(numbers) :]
        return (
            d_state,
            d_tokens,
            d_numbers,
            jax.tree.unflatten(tree, [x.sum(0) for x in rest]),
            None,
        )

    run.defvjp(forward, backward)
    return run


class _Specs:
    """Grid (batch row, block of packs, chunk) and block specs of each kind of array."""

    def __init__(self, sizes, state, ids, backwards):
        chunks, packs = ids.shape[1], sizes.packs
        self.blocks = state.shape[1] // packs
        self.grid = (state.shape[0], self.blocks, chunks)
        self.size, self.heads = sizes.chunk, sizes.heads
        self.spec = spec = specs_over_time(chunks, 2, backwards=backwards)
        self.ids = [  # as a column and as a row
            spec((1, 1, *dims), lambda b, m, t: (b, t, 0, 0))
            for dims in ((self.size, 1), (1, self.size))
        ]
        block = (packs, *state.shape[2:])
        self.state = spec((1, *block), lambda b, m, t: (b, m, 0, 0))
        self.boundary = spec((1, 1, *block), lambda b, m, t: (b, t, m, 0, 0))
        pairs = self.size, sizes.pack * self.size
        self.kept = spec((1, 1, packs, *pairs), lambda b, m, t: (b, t, m, 0, 0))
        self.memory = pltpu.VMEM(block, jnp.float32)

    def tokens(self, lanes):
        return self.spec((1, self.size, lanes), lambda b, m, t: (b, t, m))

    def row_vector(self, x):
        lanes = x.shape[-1] // self.blocks
        return self.spec((1, 1, lanes), lambda b, m, t: (b, 0, m))

    def given(self, tokens, numbers, flat):
        """Return the specs of tokens, numbers and vectors."""
        number = self.spec((1, 1, self.size, self.heads), lambda b, m, t: (b, m, t, 0))
        vectors = [self.spec((1, x.shape[-1] // self.blocks), lambda b, m, t: (0, m)) for x in flat]
        by_token = [self.tokens(x.shape[-1] // self.blocks) for x in tokens]
        return by_token + [number] * len(numbers) + vectors


def _forward_kernel(kernel, sizes, tree, tokens, numbers):
    taken = tokens + numbers + tree.num_leaves

    def run(id_column, id_row, start, *refs, exact):
        given, refs = _Given(refs, tokens, numbers, tree), refs[taken:]
        y, final, boundaries, *kept, states = refs

        @pl.when(pl.program_id(2) == 0)
        def _():
            states[...] = start[0]

        boundaries[0, 0] = states[...]
        heads = Heads(sizes, exact, masks_of(sizes, id_column[0, 0], id_row[0, 0]))
        prepared = kernel.prepare(heads.masks, heads.sums, given.numbers)
        arguments = [(states[p], *given.pack(sizes, p, prepared)) for p in range(sizes.packs)]
        results = interleave(lambda *each: kernel.body(heads, *each, None), arguments)
        for p, ((state, out), keep) in enumerate(results):
            states[p], y[0, :, _lanes(sizes, y.shape[2], p)] = state, out
            if kernel.keeps:
                kept[0][0, 0, p] = keep
        final[0] = states[...]

    return run


def _backward_kernel(kernel, sizes, tree, tokens, numbers):
    taken = tokens + numbers + tree.num_leaves

    def run(id_column, id_row, d_final, boundaries, *refs, exact):
        kept, refs = refs[: kernel.keeps], refs[kernel.keeps :]
        d_y, *refs = refs
        given, refs = _Given(refs, tokens, numbers, tree), refs[taken:]
        d_start, *refs, d_states = refs
        d_tokens, refs = refs[:tokens], refs[tokens:]
        d_numbers, d_shared = refs[:numbers], refs[numbers:]

        @pl.when(pl.program_id(2) == 0)
        def _():
            d_states[...] = d_final[0]
            for ref in d_shared:
                ref[...] = jnp.zeros_like(ref)

        heads = Heads(sizes, exact, masks_of(sizes, id_column[0, 0], id_row[0, 0]))
        prepared, unprepare = jax.vjp(
            lambda numbers: kernel.prepare(heads.masks, heads.sums, numbers), given.numbers
        )

        def back(keep, cotangents, *inputs):
            def again(*each):
                return kernel.body(heads, *each, keep)[0]

            return jax.vjp(again, *inputs)[1](cotangents)

        arguments = [
            (
                kept[0][0, 0, p] if kernel.keeps else None,
                (d_states[p], d_y[0, :, _lanes(sizes, d_y.shape[2], p)]),
                boundaries[0, 0, p],
                *given.pack(sizes, p, prepared),
            )
            for p in range(sizes.packs)
        ]
        results = interleave(back, arguments)
        for p, (d_state, d_parts, _, d_vectors) in enumerate(results):
            d_states[p] = d_state
            for ref, part in zip(d_tokens, d_parts, strict=True):
                ref[0, :, _lanes(sizes, ref.shape[2], p)] = part
            for ref, part in zip(d_shared, jax.tree.leaves(d_vectors), strict=True):
                ref[0, :, _lanes(sizes, ref.shape[2], p)] += part
        if d_numbers:
            by_pack = zip(*(each[2] for each in results), strict=True)
            d_prepared = tuple(jnp.concatenate(parts, 1) for parts in by_pack)
            for ref, part in zip(d_numbers, unprepare(d_prepared)[0], strict=True):
                ref[0, 0] = part
        d_start[0] = d_states[...]

    return run


class _Given:
    """Refs of tokens, numbers and vectors of a block."""

    def __init__(self, refs, tokens, numbers, tree):
        self.tokens, self.tree = refs[:tokens], tree
        self.numbers = tuple(ref[0, 0] for ref in refs[tokens : tokens + numbers])
        self.shared = refs[tokens + numbers : tokens + numbers + tree.num_leaves]

    def pack(self, sizes, p, prepared):
        """Return tokens, numbers and vectors of pack p."""
        at = slice(p * sizes.pack, (p + 1) * sizes.pack)
        return (
            tuple(x[0, :, _lanes(sizes, x.shape[2], p)] for x in self.tokens),
            tuple(x[:, at] for x in prepared),
            jax.tree.unflatten(
                self.tree, [x[:, _lanes(sizes, x.shape[1], p)] for x in self.shared]
            ),
        )


def _lanes(sizes, lanes, p):
    """Return the slice of pack p in a block of `lanes` lanes."""
    size = lanes // sizes.packs
    return slice(p * size, (p + 1) * size)
