"""The inverse of a unit lower-triangular matrix, by matrix products alone."""

import jax
import jax.numpy as jnp

BLOCK = 16


def unit_lower_inverse(strict: jax.Array) -> jax.Array:
    """(I - strict)^-1 for strictly lower-triangular `strict` (..., c, c), in float32.

    Blocks of 16 by the product (I + A)(I + A^2)(I + A^4)(I + A^8), which is exact because A^16 = 0
    (longer products would pass through large powers); then neighbouring blocks are joined until one
    is left. Substitution would take c dependent steps; this takes about 2 log2 c products.
    """
    size = strict.shape[-1]
    width = BLOCK
    while width < size:
        width *= 2
    lead = [(0, 0)] * (strict.ndim - 2)
    a = jnp.pad(strict.astype(jnp.float32), [*lead, (0, width - size), (0, width - size)])
    blocks = jnp.stack([a[..., i : i + BLOCK, i : i + BLOCK] for i in range(0, width, BLOCK)], -3)
    inverse = blocks + jnp.eye(BLOCK).reshape((1,) * (blocks.ndim - 2) + (BLOCK, BLOCK))
    power = blocks
    for _ in range(3):
        power = _product(power, power)
        inverse = inverse + _product(power, inverse)
    inverses = [inverse[..., i, :, :] for i in range(width // BLOCK)]
    step = BLOCK
    while len(inverses) > 1:
        joined = []
        for i in range(0, len(inverses), 2):
            first, second = inverses[i], inverses[i + 1]
            low = i * step
            below = a[..., low + step : low + 2 * step, low : low + step]
            corner = _product(second, _product(below, first))
            top = jnp.concatenate([first, jnp.zeros_like(corner)], -1)
            joined.append(jnp.concatenate([top, jnp.concatenate([corner, second], -1)], -2))
        inverses, step = joined, 2 * step
    return inverses[0][..., :size, :size]


def _product(a, b):
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
