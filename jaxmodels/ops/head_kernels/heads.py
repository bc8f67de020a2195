"""Arithmetic of a chunk of one row and one pack of heads, inside a kernel.

The algorithms are those of `common/head_packing.py`, on 2-D arrays. Shapes: c chunk size, P heads
per pack, n lanes per head.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.pallas_tpu import LANES, dot, lane_blocks, select_matmul

PACKS = 4  # per block: while one waits for a matmul, the others compute


class Sizes(NamedTuple):
    """Static sizes: tokens per chunk c, heads per pack P, packs per block."""

    chunk: int
    pack: int
    packs: int

    @property
    def heads(self) -> int:
        """Heads per block."""
        return self.pack * self.packs


def sizes_of(chunk: int, heads: int, narrowest: int) -> tuple[Sizes, int]:
    """Return the sizes for `heads` heads, and how many heads of zeros fill the last block.

    chunk: tokens per chunk. narrowest: a divisor of every number of lanes per head, a key's size.
    """
    pack = min(max(LANES // narrowest, 1), heads)
    lanes = pack * narrowest
    packs, filled = lane_blocks(-(-heads // pack), lanes, PACKS * lanes)
    return Sizes(chunk, pack, packs), filled * pack - heads


class Masks(NamedTuple):
    """Masks of a chunk; see `common/chunks.py`.

    visible, earlier bool (c, P c); first, last bool (c, 1); carried bool (1, 1); reads, follows
    float32 (c, c), `visible` of one head and the transpose of `earlier`.
    """

    visible: jax.Array
    earlier: jax.Array
    first: jax.Array
    last: jax.Array
    carried: jax.Array
    reads: jax.Array
    follows: jax.Array


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
        follows=(same & (t < i)).astype(jnp.float32),
    )


def blocks(pack, rows, columns):
    """Return the mask of diagonal blocks, bool (P rows, P columns)."""
    i = jax.lax.broadcasted_iota(jnp.int32, (pack * rows, pack * columns), 0)
    j = jax.lax.broadcasted_iota(jnp.int32, (pack * rows, pack * columns), 1)
    own = (i < rows) & (j < columns)
    for p in range(1, pack):
        inside = (i >= p * rows) & (i < (p + 1) * rows)
        own = own | (inside & (j >= p * columns) & (j < (p + 1) * columns))
    return own


class Heads:
    """One row and one pack; arrays are (c, P n), matrices over token pairs (c, P c)."""

    def __init__(self, sizes, exact, masks):
        self.sizes, self.masks, self.exact = sizes, masks, exact

    def dot(self, x, y, over=(1, 0)):
        """Contract one axis of x with one of y."""
        return dot(self.exact, over, x, y)

    def sums(self, choice, x, parts=3):
        """Return choice @ x for zeros and ones, x rounded to `parts` times 8 bits."""
        return select_matmul(self.exact, parts, "left", choice, x)

    def head_sum(self, x):
        """Sum x (c, P n) over each head, broadcast to (c, P n)."""
        pack = self.sizes.pack
        size = x.shape[1] // pack
        if size % LANES == 0:
            parts = [
                jnp.sum(x[:, p * size : (p + 1) * size], 1, keepdims=True) for p in range(pack)
            ]
            return self.wide(jnp.concatenate(parts, 1), size)
        ones = blocks(pack, size, size).astype(jnp.float32)
        return select_matmul(self.exact, 2, "right", ones, x)

    def wide(self, numbers, size):
        """Broadcast numbers (c, P) to `size` lanes per head, (c, P size)."""
        pack, rows = self.sizes.pack, numbers.shape[0]
        wide = jnp.broadcast_to(numbers[:, :1], (rows, pack * size))
        lane = jax.lax.broadcasted_iota(jnp.int32, (1, pack * size), 1)
        for p in range(1, pack):
            wide = jnp.where(lane >= p * size, numbers[:, p : p + 1], wide)
        return wide

    def spread(self, x):
        """Spread (c, lanes) to (P c, lanes), each head in separate rows."""
        pack = self.sizes.pack
        if pack == 1:
            return x
        own = blocks(pack, x.shape[0], x.shape[1] // pack)
        return jnp.where(own, jnp.concatenate([x] * pack, 0), 0.0)

    def compact(self, x):
        """Keep the diagonal blocks of (P m, P n) as (m, P n), the inverse of `spread`."""
        pack, head = self.sizes.pack, x.shape[0] // self.sizes.pack
        if pack == 1:
            return x
        x = jnp.where(blocks(pack, head, x.shape[1] // pack), x, 0.0)
        return sum(x[p * head : (p + 1) * head] for p in range(pack))

    def pairs(self, x, rows, mask):
        """Return the masked products (c, P c) of x (c, P n) and rows spread to (P c, P n)."""
        return jnp.where(mask, self.dot(x, rows, (1, 1)), 0.0)

    def sound(self, entering):
        """Zero the entries of an entering state that are not finite if its document ends here.

        A solve mixes all rows, so a NaN of another document must be removed first.
        """
        finite = jnp.abs(entering) <= jnp.finfo(jnp.float32).max
        return jnp.where(self.masks.carried | finite, entering, 0.0)

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

    def solved(self, inverse, strict, right):
        """Solve u = strict u + right by the known inverse, a constant in gradients."""
        return _solved(self, inverse, strict, right)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solved(heads, inverse, strict, right):
    return heads.dot(inverse, heads.spread(right))


def _solved_forward(heads, inverse, strict, right):
    u = _solved(heads, inverse, strict, right)
    return u, (inverse, u)


def _solved_backward(heads, saved, d_u):
    inverse, u = saved
    d_right = heads.compact(heads.dot(inverse, d_u, (0, 0)))
    return jnp.zeros_like(inverse), heads.dot(d_right, heads.spread(u), (1, 1)), d_right


_solved.defvjp(_solved_forward, _solved_backward)
