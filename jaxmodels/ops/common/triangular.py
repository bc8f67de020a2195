"""Inverse of a unit lower-triangular matrix by matmuls."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.common.precision import EXACT

BLOCK = 16


@jax.custom_jvp
def unit_lower_inverse(strict: jax.Array) -> jax.Array:
    """Return (I - strict)^-1 of strictly lower-triangular `strict` (..., c, c), in float32.

    Inverses X, Z of neighbouring diagonal blocks are joined: with B the block below X, the inverse
    of the pair has Z B X below. Up to blocks of 16, all joins of a size are one matmul of 16 x 16
    matrices. This takes 2 log2 c matmuls instead of c dependent substitution steps, and is as
    accurate. (The product (I + A)(I + A^2)(I + A^4)... is not: its powers grow to thousands and
    cancel when keys repeat.) The derivative is X dA X, for X the result.
    """
    size = strict.shape[-1]
    width = BLOCK
    while width < size:
        width *= 2
    lead = [(0, 0)] * (strict.ndim - 2)
    a = jnp.pad(strict.astype(jnp.float32), [*lead, (0, width - size), (0, width - size)])
    joined = _inverse_of_blocks(_cut(a, 0, BLOCK, BLOCK))
    step = BLOCK
    while step < width:
        first, second = joined[..., 0::2, :, :], joined[..., 1::2, :, :]
        corner = _product(_product(second, _cut(a, step, step, 2 * step)), first)
        top = jnp.concatenate([first, jnp.zeros_like(corner)], -1)
        joined = jnp.concatenate([top, jnp.concatenate([corner, second], -1)], -2)
        step *= 2
    return joined[..., 0, :size, :size]


@unit_lower_inverse.defjvp
def _derivative(primals, tangents):
    inverse = unit_lower_inverse(*primals)
    (change,) = tangents
    return inverse, _product(_product(inverse, change.astype(jnp.float32)), inverse)


def _inverse_of_blocks(a):
    """Return (I - a)^-1 of strictly lower-triangular blocks a (..., 16, 16), by masks."""
    i = np.arange(BLOCK)

    def below(size):  # off-diagonal blocks of this size, one per pair of diagonal blocks
        pair = i[:, None] // (2 * size) == i[None] // (2 * size)
        mask = pair & (i[:, None] // size > i[None] // size)
        return jnp.where(mask.reshape((1,) * (a.ndim - 2) + mask.shape), a, 0.0)

    inverse = below(1) + jnp.eye(BLOCK, dtype=jnp.float32).reshape(
        (1,) * (a.ndim - 2) + (BLOCK, BLOCK)
    )
    for size in (2, 4, 8):
        inverse = inverse + _product(_product(inverse, below(size)), inverse)
    return inverse


def _cut(a, down, size, apart):
    """Extract blocks (..., m, size, size) along the diagonal of a, or `down` rows below it."""
    starts = range(0, a.shape[-1], apart)
    return jnp.stack([a[..., i + down : i + down + size, i : i + size] for i in starts], -3)


def _product(a, b):
    return jnp.matmul(a, b, precision=EXACT)
