"""A hash of 32-bit integers, the source of sketches and of counter-based random bits."""

import jax
import jax.numpy as jnp

GOLDEN = 0x9E3779B9  # 2^32 / golden ratio, odd: consecutive multiples are far apart


def mix(x: jax.Array) -> jax.Array:
    """Return a bijective hash of uint32 (...) -> uint32 (...).

    The constants are those of "lowbias32" (Wellons, public domain): every input bit flips every
    output bit with a probability close to a half.
    """
    x = x.astype(jnp.uint32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
