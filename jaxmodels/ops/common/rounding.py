"""Stochastic rounding to float16, from counters instead of a sequential generator."""

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.integer_hash import GOLDEN, mix


def random_bits(
    shape: tuple[int, ...], counter: jax.Array, stream: int, first: int | jax.Array = 0
) -> jax.Array:
    """Return uint32 bits that depend on the position, a counter and a stream alone.

    So they are the same however an array is split over devices or a run is resumed.

    Args:
      shape: shape of the result, fewer than 2^32 elements.
      counter: integer scalar, e.g. the number of the update.
      stream: tells arrays apart that share a counter.
      first: rows of the whole array before these, which another device holds.
    """
    place = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        if axis == 0:
            place = place + jnp.asarray(first).astype(jnp.uint32)
    seed = mix(counter.astype(jnp.uint32) * jnp.uint32(GOLDEN) + jnp.uint32(stream & 0xFFFFFFFF))
    return mix(mix(place) ^ jnp.broadcast_to(seed, shape))


def stochastic_round(x: jax.Array, bits: jax.Array) -> jax.Array:
    """Round float32 (...) to float16, up or down with probabilities that make it unbiased.

    An update far below the spacing of float16 (3e-5 at 0.05) then survives in expectation, where
    rounding to nearest loses it. Values that float16 holds are kept. Beyond its range, values are
    clipped; NaN stays.

    Args:
      x: float32 (...).
      bits: uint32 (...), of which 13 are used: float32 has 13 more bits of mantissa.
    """
    largest = jnp.float32(jnp.finfo(jnp.float16).max)
    x = jnp.clip(x, -largest, largest)
    exponent = (jax.lax.bitcast_convert_type(x, jnp.uint32) >> 23 & 0xFF).astype(jnp.int32) - 127
    places = jnp.minimum(10 - exponent, 24)  # binary places of float16 there; 24 below 2^-14
    # Only 13 bits of the random part: with more, their sum with x / spacing would be rounded, and
    # a value that float16 holds could change.
    shift = (bits >> 19).astype(jnp.float32) * 2.0**-13
    y = jnp.floor(x * _power_of_two(places) + shift) * _power_of_two(-places)
    return jnp.clip(y, -largest, largest).astype(jnp.float16)


def _power_of_two(exponent):
    """Return 2^exponent exactly, which `exp2` does not promise; int32 -> float32 (...)."""
    return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)
