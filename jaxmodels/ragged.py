"""Ragged batches: `hold`, bool (batch, time), is True where a row has no token.

A held token leaves the state of its row as it is, its reset is ignored, and its output is 0; so a
row of tokens and held places, in any order, is that row of tokens alone. What stands in a held
place, even NaN, has no effect on values or gradients: it is replaced by 0 before it is read.

`lengths`, int (batch,), is the special case of padding on the right. Chunked forms need only this
one: the tokens of each row are moved to its front, read, and the outputs moved back. So the result
does not depend, in any bit, on where the padding is.

Shapes: B batch, T time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def hold_after(lengths: jax.Array, time: int) -> jax.Array:
    """Return hold, bool (B, T), of rows of `lengths` int (B,) tokens that are padded at the end."""
    return jnp.arange(time)[None] >= lengths[:, None]


def without(hold: jax.Array, tree: Any) -> Any:
    """Return the tree with 0 (False) in the held places of its arrays, (*hold.shape, ...)."""
    # Selected, not multiplied: a NaN times 0 is NaN, here and in the gradient.
    return jax.tree.map(lambda x: jnp.where(_over(hold, x), jnp.zeros_like(x), x), tree)


def keep_held(hold: jax.Array, before: Any, after: Any) -> Any:
    """Return the state of each row, arrays (B, ...): `before` where hold (B,), else `after`."""
    return jax.tree.map(lambda x, y: jnp.where(_over(hold, y), x, y), before, after)


class Front(NamedTuple):
    """Rows whose tokens were moved to the front, in order.

    Attributes:
      hold: bool (B, T), as given.
      lengths: int32 (B,), tokens of each row.
      order: int32 (B, T), the place each moved token comes from.
      place: int32 (B, T), the place each token moved to; the inverse permutation.
    """

    hold: jax.Array
    lengths: jax.Array
    order: jax.Array
    place: jax.Array

    def pack(self, tree: Any) -> Any:
        """Move the tokens of arrays (B, T, ...) to the front, followed by zeros."""
        return _gather(without(self.hold, tree), self.order)

    def unpack(self, tree: Any) -> Any:
        """Move the tokens of arrays (B, T, ...) back, with zeros in the held places."""
        return without(self.hold, _gather(tree, self.place))


def to_front(hold: jax.Array) -> Front:
    """Return the moves of the tokens of each row to its front; hold bool (B, T)."""
    real = ~hold
    order = jnp.argsort(hold, axis=1, stable=True).astype(jnp.int32)
    lengths = jnp.sum(real, 1, dtype=jnp.int32)
    behind = lengths[:, None] + jnp.cumsum(hold, 1, dtype=jnp.int32)
    place = jnp.where(real, jnp.cumsum(real, 1, dtype=jnp.int32), behind) - 1
    return Front(hold, lengths, order, place)


def map_tokens(function: Callable, out: Any) -> Any:
    """Apply a function to the arrays (B, T, ...), in a step (B, ...), of an output.

    An output that has other arrays, too, has a method `map_tokens`, which applies the function to
    those with one entry a token.
    """
    own = getattr(out, "map_tokens", None)
    return function(out) if own is None else own(function)


def _over(hold, x):
    """Return hold with as many axes as x, to select by."""
    return hold.reshape(hold.shape + (1,) * (x.ndim - hold.ndim))


def _gather(tree, index):
    def gather(x):
        return jnp.take_along_axis(x, _over(index, x), 1)

    return jax.tree.map(gather, tree)
