"""The recurrence of RWKV-7 as a kernel for a TPU, with all that stands around it in a chunk.

    S_t = diag(w_t) S_{t-1} + b_t (a_t^T S_{t-1}) + k_t v_t^T ;   y_t = S_t^T r_t

The chunk form of `ops/dplr.py`, of one row and of heads that fill 128 lanes: nothing of it leaves
fast memory but y, the states between chunks and the inverse that the backward pass needs again,
which runs the chunk once more and differentiates it there. Heads lie side by side in packs; what
multiplies from the right has each head's lanes in rows of its own, as in `ops/packs.py`. States are
transposed, so that decays lie along the lanes.

Shapes: B batch, T time, H heads, N head size, C = H N, c chunk size, n chunks, P heads of a pack,
M = H / P packs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxmodels.ops.chunks import segment_ids
from jaxmodels.ops.dplr import MOST
from jaxmodels.ops.kernels import (
    LANES,
    blocks_of,
    chosen,
    chunks_of,
    dot,
    kernel_call,
    side_by_side,
)

PACKS = 4  # of a block: while one waits for a product, the others compute


class _Sizes(NamedTuple):
    """Static: tokens c of a chunk, size N of a head, heads P of a pack, packs of a block."""

    chunk: int
    head: int
    pack: int
    packs: int

    @property
    def lanes(self) -> int:
        return self.pack * self.head


def dplr_kernel(mix, state, tokens, shared, reset=None, *, chunk_size=64):
    """`dplr_mixed` on a TPU; elsewhere the same kernel, interpreted.

    Args:
      mix: see `dplr_mixed`; its arrays are (c, P N) and its vectors (1, P N).
      state: (B, H, N, N), key by value, before the first token.
      tokens: tuple of (B, T, C).
      shared: pytree of vectors (C,).
      reset: bool (B, T) or None.
      chunk_size: at most 128.

    Returns:
      (state after the last token, y (B, T, C)).
    """
    batch, time, width = tokens[0].shape
    heads, head = state.shape[1:3]
    pack = min(max(LANES // head, 1), heads)
    packs, filled = blocks_of(-(-heads // pack), pack * head, PACKS * pack * head)
    size = chunks_of(chunk_size, time)
    sizes = _Sizes(size, head, pack, packs)
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    fill = filled * pack - heads  # heads of zeros

    def padded(x):  # tokens of zeros: nothing decays, is removed or written
        return jnp.pad(x.astype(jnp.float32), [(0, 0), (0, -time % size), (0, fill * head)])

    tokens = tuple(map(padded, tokens))
    reset = jnp.pad(reset, [(0, 0), (0, -time % size)])
    ids = segment_ids(reset.reshape(batch, -1, size))  # (B, n, c)
    shared = jax.tree.map(lambda x: jnp.pad(x, (0, fill * head))[None], shared)
    packed = jnp.pad(state.astype(jnp.float32), [(0, 0), (0, fill), (0, 0), (0, 0)])
    packed = packed.reshape(batch, -1, pack, head, head)
    packed = packed.transpose(0, 1, 4, 2, 3).reshape(batch, -1, head, pack * head)
    y, packed = _runner(mix, sizes)(packed, tokens, shared, ids)
    packed = packed.reshape(batch, -1, head, pack, head).transpose(0, 1, 3, 4, 2)
    return packed.reshape(batch, -1, head, head)[:, :heads], y[:, :time, :width]


def _runner(mix, sizes):
    """(state (B, M, N, P N), tokens (B, T, C), shared (1, C), ids (B, n, c)) -> (y, state)."""

    @jax.custom_vjp
    def run(state, tokens, shared, ids):
        return forward(state, tokens, shared, ids)[0]

    def forward(state, tokens, shared, ids):
        specs = _Specs(sizes, state, ids, backwards=False)
        flat, tree = jax.tree.flatten(shared)
        shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
        border = (state.shape[0], ids.shape[1], *state.shape[1:])
        y, state, borders, inverses = kernel_call(
            _forward_kernel(mix, sizes, tree, len(tokens)),
            "dplr_forward",
            grid=specs.grid,
            in_specs=[specs.id_column, specs.id_row, specs.state]
            + [specs.tokens] * len(tokens)
            + [specs.vector] * len(flat),
            out_specs=[specs.tokens, specs.state, specs.border, specs.inverse],
            out_shape=[
                shape(tokens[0].shape),
                shape(state.shape),
                shape(border),
                shape((*border[:3], sizes.chunk, sizes.pack * sizes.chunk)),
            ],
            scratch_shapes=[pltpu.VMEM((sizes.packs, sizes.head, sizes.lanes), jnp.float32)],
            semantics=("parallel", "parallel", "arbitrary"),
        )(ids[..., None], ids[:, :, None], state, *tokens, *flat)
        return (y, state), (tokens, shared, ids, borders, inverses)

    def backward(saved, cotangents):
        tokens, shared, ids, borders, inverses = saved
        d_y, d_state = cotangents
        specs = _Specs(sizes, d_state, ids, backwards=True)
        flat, tree = jax.tree.flatten(shared)
        shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
        vectors = [(ids.shape[0], *x.shape) for x in flat]
        d_state, *d_tokens_and_shared = kernel_call(
            _backward_kernel(mix, sizes, tree, len(tokens)),
            "dplr_backward",
            grid=specs.grid,
            in_specs=[specs.id_column, specs.id_row, specs.state, specs.border, specs.inverse]
            + [specs.tokens] * (len(tokens) + 1)
            + [specs.vector] * len(flat),
            out_specs=[specs.state] + [specs.tokens] * len(tokens) + [specs.row_vector] * len(flat),
            out_shape=[shape(d_state.shape)]
            + [shape(tokens[0].shape)] * len(tokens)
            + [shape(vector) for vector in vectors],
            scratch_shapes=[pltpu.VMEM((sizes.packs, sizes.head, sizes.lanes), jnp.float32)],
            semantics=("parallel", "parallel", "arbitrary"),
        )(ids[..., None], ids[:, :, None], d_state, borders, inverses, d_y, *tokens, *flat)
        d_tokens = tuple(d_tokens_and_shared[: len(tokens)])
        d_flat = [x.sum(0) for x in d_tokens_and_shared[len(tokens) :]]
        return d_state, d_tokens, jax.tree.unflatten(tree, d_flat), None

    run.defvjp(forward, backward)
    return run


class _Specs:
    """Grid (row of the batch, block of packs, chunk) and the blocks of each kind of array."""

    def __init__(self, sizes, state, ids, backwards):
        chunks = ids.shape[1]
        self.grid = (state.shape[0], state.shape[1] // sizes.packs, chunks)
        lanes = sizes.packs * sizes.lanes

        def spec(block, at):
            def place(b, m, t):
                return at(b, m, chunks - 1 - t if backwards else t)

            return pl.BlockSpec(block, place)

        size, packs, pairs = sizes.chunk, sizes.packs, sizes.pack * sizes.chunk
        self.tokens = spec((1, size, lanes), lambda b, m, t: (b, t, m))
        self.id_column = spec((1, 1, size, 1), lambda b, m, t: (b, t, 0, 0))
        self.id_row = spec((1, 1, 1, size), lambda b, m, t: (b, t, 0, 0))
        self.vector = spec((1, lanes), lambda b, m, t: (0, m))
        self.row_vector = spec((1, 1, lanes), lambda b, m, t: (b, 0, m))
        self.state = spec((1, packs, sizes.head, sizes.lanes), lambda b, m, t: (b, m, 0, 0))
        self.border = spec((1, 1, packs, sizes.head, sizes.lanes), lambda b, m, t: (b, t, m, 0, 0))
        self.inverse = spec((1, 1, packs, size, pairs), lambda b, m, t: (b, t, m, 0, 0))


def _forward_kernel(mix, sizes, tree, count):
    def kernel(id_column, id_row, start, *refs, exact):
        tokens, shared = refs[:count], refs[count : count + tree.num_leaves]
        y, final, borders, inverses, states = refs[count + tree.num_leaves :]

        @pl.when(pl.program_id(2) == 0)
        def _():
            states[...] = start[0]

        borders[0, 0] = states[...]
        masks = _masks(sizes, id_column[0, 0], id_row[0, 0])
        chunk = _Chunk(sizes, exact, masks)
        arguments = [
            (
                states[p],
                tuple(x[0, :, at] for x in tokens),
                jax.tree.unflatten(tree, [x[:, at] for x in shared]),
            )
            for p, at in _places(sizes)
        ]
        results = side_by_side(lambda *each: chunk.mixed(mix, *each, None), arguments)
        for (p, at), ((state, out), inverse) in zip(_places(sizes), results, strict=True):
            states[p], y[0, :, at], inverses[0, 0, p] = state, out, inverse
        final[0] = states[...]

    return kernel


def _backward_kernel(mix, sizes, tree, count):
    def kernel(id_column, id_row, d_final, borders, inverses, d_y, *refs, exact):
        tokens, shared = refs[:count], refs[count : count + tree.num_leaves]
        d_start, *refs = refs[count + tree.num_leaves :]
        d_tokens, d_shared, d_states = refs[:count], refs[count:-1], refs[-1]

        @pl.when(pl.program_id(2) == 0)
        def _():
            d_states[...] = d_final[0]
            for ref in d_shared:
                ref[...] = jnp.zeros_like(ref)

        masks = _masks(sizes, id_column[0, 0], id_row[0, 0])
        chunk = _Chunk(sizes, exact, masks)

        def back(state, parts, vectors, inverse, cotangents):
            def again(*each):
                return chunk.mixed(mix, *each, inverse)[0]

            return jax.vjp(again, state, parts, vectors)[1](cotangents)

        arguments = [
            (
                borders[0, 0, p],
                tuple(x[0, :, at] for x in tokens),
                jax.tree.unflatten(tree, [x[:, at] for x in shared]),
                inverses[0, 0, p],
                (d_states[p], d_y[0, :, at]),
            )
            for p, at in _places(sizes)
        ]
        results = side_by_side(back, arguments)
        for (p, at), (d_state, d_parts, d_vectors) in zip(_places(sizes), results, strict=True):
            d_states[p] = d_state
            for ref, part in zip(d_tokens, d_parts, strict=True):
                ref[0, :, at] = part
            for ref, part in zip(d_shared, jax.tree.leaves(d_vectors), strict=True):
                ref[0, :, at] += part
        d_start[0] = d_states[...]

    return kernel


def _places(sizes):
    """The packs of a block and their lanes."""
    return [(p, slice(p * sizes.lanes, (p + 1) * sizes.lanes)) for p in range(sizes.packs)]


class _Masks(NamedTuple):
    """visible, earlier (c, P c): who reads whom; first, last (c, 1); carried (1, 1); reads (c, c):
    visible once, as ones and zeros.
    """

    visible: jax.Array
    earlier: jax.Array
    first: jax.Array
    last: jax.Array
    carried: jax.Array
    reads: jax.Array


def _masks(sizes, column, row):
    """column (c, 1), row (1, c): the document of each token of the chunk."""
    size = sizes.chunk
    t, i = (jax.lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in (0, 1))
    same = column == row
    visible, earlier = (same & (t >= i)).astype(jnp.float32), (same & (t > i)).astype(jnp.float32)
    last_id = column[size - 1 :]
    return _Masks(
        visible=jnp.concatenate([visible] * sizes.pack, 1) > 0.0,
        earlier=jnp.concatenate([earlier] * sizes.pack, 1) > 0.0,
        first=column == 0,
        last=column == last_id,
        carried=last_id == 0,
        reads=visible,
    )


def _blocks(pack, rows, columns):
    """bool (P rows, P columns): the blocks on the diagonal."""
    i = jax.lax.broadcasted_iota(jnp.int32, (pack * rows, pack * columns), 0)
    j = jax.lax.broadcasted_iota(jnp.int32, (pack * rows, pack * columns), 1)
    own = (i < rows) & (j < columns)
    for p in range(1, pack):
        inside = (i >= p * rows) & (i < (p + 1) * rows)
        own = own | (inside & (j >= p * columns) & (j < (p + 1) * columns))
    return own


class _Chunk:
    """A chunk of one row and one pack; arrays are (c, P N), pairs of tokens (c, P c)."""

    def __init__(self, sizes, exact, masks):
        self.sizes, self.masks, self.exact = sizes, masks, exact

    def dot(self, x, y, over=(1, 0)):
        return dot(self.exact, over, x, y)

    def mixed(self, mix, state, tokens, shared, inverse):
        """state (N, P N) -> ((state, y), inverse)."""
        found = []

        def recur(*inputs):
            state_after, y, used = self.recur(state, inputs, inverse)
            found.append(used)
            return state_after, y

        return mix(recur, tokens, shared, self.head_sum), found[0]

    def head_sum(self, x):
        sizes = self.sizes
        ones = _blocks(sizes.pack, sizes.head, sizes.head).astype(jnp.float32)
        return chosen(self.exact, 2, "right", ones, x)

    def spread(self, x):
        """(c, lanes) -> (P c, lanes), each head in its rows."""
        pack = self.sizes.pack
        if pack == 1:
            return x
        own = _blocks(pack, x.shape[0], x.shape[1] // pack)
        return jnp.where(own, jnp.concatenate([x] * pack, 0), 0.0)

    def recur(self, state, inputs, inverse):
        """See `ops/dplr.py`."""
        r, log_w, k, v, a, b = inputs
        masks, size = self.masks, self.sizes.chunk
        g = chosen(self.exact, 3, "left", masks.reads, log_w)
        end, middle = g[size - 1 :], -0.5 * MOST * size
        inner, outer = jnp.exp(g - middle), jnp.exp(middle - g)
        before = jnp.exp(g - log_w - middle)
        a_in, r_in, k_out, b_out = a * before, r * inner, k * outer, b * outer
        k_rows, b_rows, v_rows = self.spread(k_out), self.spread(b_out), self.spread(v)

        def pairs(x, rows, mask):
            return jnp.where(mask, self.dot(x, rows, (1, 1)), 0.0)

        a_b = pairs(a_in, b_rows, masks.earlier)
        if inverse is None:
            inverse = self.inverse(jax.lax.stop_gradient(a_b))
        whole = self.spread(state)  # (P N, P N), transposed: values by keys
        entering = jnp.exp(middle) * whole
        # NaN of a document that ends here must not reach the next one.
        finite = jnp.abs(entering) <= jnp.finfo(jnp.float32).max
        sound = jnp.where(masks.carried | finite, entering, 0.0)
        read = self.dot(pairs(a_in, k_rows, masks.earlier), v_rows)
        read = read + jnp.where(masks.first, self.dot(a_in, sound, (1, 1)), 0.0)
        u = _solved(self, inverse, a_b, read)
        y = self.dot(pairs(r_in, b_rows, masks.visible), self.spread(u))
        y = y + self.dot(pairs(r_in, k_rows, masks.visible), v_rows)
        y = y + jnp.where(masks.first, self.dot(r_in, entering, (1, 1)), 0.0)

        k_end, b_end = (jnp.where(masks.last, x, 0.0) for x in (k_out, b_out))
        written = self.dot(v, k_end, (0, 0)) + self.dot(u, b_end, (0, 0))
        kept = jnp.where(masks.carried, jnp.exp(middle) * state, 0.0)
        state = jnp.exp(end - middle) * (kept + self.compact(written))
        return state, y, inverse

    def compact(self, x):
        """(P N, P N) -> (N, P N), what stands between two heads left out; undoes `spread`."""
        pack, head = self.sizes.pack, x.shape[0] // self.sizes.pack
        if pack == 1:
            return x
        x = jnp.where(_blocks(pack, head, x.shape[1] // pack), x, 0.0)
        return sum(x[p * head : (p + 1) * head] for p in range(pack))

    def inverse(self, strict):
        """(I - strict)^-1 of each head, see `packs.inverse`."""
        size, pairs = strict.shape
        i = jax.lax.broadcasted_iota(jnp.int32, (size, pairs), 0)
        lane = jax.lax.broadcasted_iota(jnp.int32, (size, pairs), 1)
        j = lane
        for p in range(1, self.sizes.pack):
            j = jnp.where(lane >= p * size, lane - p * size, j)

        def below(step):  # step is a power of two
            shift = step.bit_length() - 1
            row, column = i >> shift, j >> shift
            mask = (row >> 1 == column >> 1) & (row > column)
            return jnp.where(mask, strict, 0.0)

        result = below(1) + (i == j).astype(jnp.float32)
        step = 2
        while step < size:
            missing = self.dot(below(step), self.spread(result))
            result = result + self.dot(result, self.spread(missing))
            step *= 2
        return result


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solved(chunk, inverse, strict, right):
    """u = strict u + right, by the known inverse, which is constant in gradients."""
    return chunk.dot(inverse, chunk.spread(right))


def _solved_forward(chunk, inverse, strict, right):
    u = _solved(chunk, inverse, strict, right)
    return u, (inverse, u)


def _solved_backward(chunk, saved, d_u):
    inverse, u = saved
    d_right = chunk.compact(chunk.dot(inverse, d_u, (0, 0)))
    return jnp.zeros_like(inverse), chunk.dot(d_right, chunk.spread(u), (1, 1)), d_right


_solved.defvjp(_solved_forward, _solved_backward)
