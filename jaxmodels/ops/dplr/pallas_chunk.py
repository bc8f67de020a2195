"""Chunk of RWKV-7 in the kernels of `ops/dplr/pallas.py`: one row, one pack of heads.

The algorithms are those of `chunked.py` and `common/head_packing.py`, on 2-D arrays with transposed
states. Shapes: N head size, c chunk size, P heads per pack.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.pallas_tpu import dot, select_matmul
from jaxmodels.ops.dplr.chunked import MOST


class Sizes(NamedTuple):
    """Static sizes: tokens per chunk c, head size N, heads per pack P, packs per block."""

    chunk: int
    head: int
    pack: int
    packs: int

    @property
    def lanes(self) -> int:
        """Lanes of a pack."""
        return self.pack * self.head


class Masks(NamedTuple):
    """Masks of a chunk; see `chunks.py`.

    visible, earlier bool (c, P c); first, last bool (c, 1); carried bool (1, 1); reads float32
    (c, c), `visible` of one head.
    """

    visible: jax.Array
    earlier: jax.Array
    first: jax.Array
    last: jax.Array
    carried: jax.Array
    reads: jax.Array


def masks_of(sizes, column, row):
    """Return the masks, given the segment ids of the tokens as column (c, 1) and row (1, c)."""
    size = sizes.chunk
    t, i = (jax.lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in (0, 1))
    same = column == row
    visible, earlier = (same & (t >= i)).astype(jnp.float32), (same & (t > i)).astype(jnp.float32)
    last_id = column[size - 1 :]
    return Masks(
        visible=jnp.concatenate([visible] * sizes.pack, 1) > 0.0,
        earlier=jnp.concatenate([earlier] * sizes.pack, 1) > 0.0,
        first=column == 0,
        last=column == last_id,
        carried=last_id == 0,
        reads=visible,
    )


def _blocks(pack, rows, columns):
    """Return the mask of diagonal blocks, bool (P rows, P columns)."""
    i = jax.lax.broadcasted_iota(jnp.int32, (pack * rows, pack * columns), 0)
    j = jax.lax.broadcasted_iota(jnp.int32, (pack * rows, pack * columns), 1)
    own = (i < rows) & (j < columns)
    for p in range(1, pack):
        inside = (i >= p * rows) & (i < (p + 1) * rows)
        own = own | (inside & (j >= p * columns) & (j < (p + 1) * columns))
    return own


class Chunk:
    """Chunk of one row and one pack; arrays are (c, P N), matrices over token pairs (c, P c)."""

    def __init__(self, sizes, exact, masks):
        self.sizes, self.masks, self.exact = sizes, masks, exact

    def dot(self, x, y, over=(1, 0)):
        """Contract one axis of x with one of y."""
        return dot(self.exact, over, x, y)

    def mixed(self, mix, state, tokens, shared, inverse):
        """Call `mix` with the recurrence from state (N, P N) -> ((state, y), inverse)."""
        inverses = []

        def recur(*inputs):
            state_after, y, used = self.recur(state, inputs, inverse)
            inverses.append(used)
            return state_after, y

        return mix(recur, tokens, shared, self.head_sum), inverses[0]

    def head_sum(self, x):
        """Sum x (c, P N) over each head, broadcast to (c, P N)."""
        sizes = self.sizes
        ones = _blocks(sizes.pack, sizes.head, sizes.head).astype(jnp.float32)
        return select_matmul(self.exact, 2, "right", ones, x)

    def spread(self, x):
        """Spread (c, lanes) to (P c, lanes), each head in separate rows."""
        pack = self.sizes.pack
        if pack == 1:
            return x
        own = _blocks(pack, x.shape[0], x.shape[1] // pack)
        return jnp.where(own, jnp.concatenate([x] * pack, 0), 0.0)

    def recur(self, state, inputs, inverse):
        """Run the recurrence over the chunk; see `chunked.py`."""
        r, log_w, k, v, a, b = inputs
        masks, size = self.masks, self.sizes.chunk
        g = select_matmul(self.exact, 3, "left", masks.reads, log_w)
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
        # The solve mixes all rows of u, so a NaN of a document that ends here is removed first.
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
        # As in `chunked.py`, the state that is kept is not scaled by exp(middle) and back.
        kept = jnp.where(masks.carried, state, 0.0)
        state = jnp.exp(end) * kept + jnp.exp(end - middle) * self.compact(written)
        return state, y, inverse

    def compact(self, x):
        """Keep the diagonal blocks of (P N, P N) as (N, P N), the inverse of `spread`."""
        pack, head = self.sizes.pack, x.shape[0] // self.sizes.pack
        if pack == 1:
            return x
        x = jnp.where(_blocks(pack, head, x.shape[1] // pack), x, 0.0)
        return sum(x[p * head : (p + 1) * head] for p in range(pack))

    def inverse(self, strict):
        """Return (I - strict)^-1 of each head; see `head_packing.inverse`."""
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
    """Solve u = strict u + right by the known inverse, a constant in gradients."""
    return chunk.dot(inverse, chunk.spread(right))


def _solved_forward(chunk, inverse, strict, right):
    u = _solved(chunk, inverse, strict, right)
    return u, (inverse, u)


def _solved_backward(chunk, saved, d_u):
    inverse, u = saved
    d_right = chunk.compact(chunk.dot(inverse, d_u, (0, 0)))
    return jnp.zeros_like(inverse), chunk.dot(d_right, chunk.spread(u), (1, 1)), d_right


_solved.defvjp(_solved_forward, _solved_backward)
