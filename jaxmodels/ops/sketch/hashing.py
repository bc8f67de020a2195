"""Integer hashes of token sequences: indicators of n-grams and of token order (F-06)."""

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.integer_hash import GOLDEN, mix


def hash_ngrams(windows: jax.Array, order: int, seed: int) -> jax.Array:
    """Hash the last `order` tokens of each window, order of tokens included.

    Args:
      windows: int (..., L), the newest token last; L >= order. Negative tokens, which pad the start
        of a document, take part like any other.
      order: n of the n-grams.
      seed: gives independent hashes.

    Returns:
      uint32 (...).
    """
    state = mix(jnp.full(windows.shape[:-1], seed, jnp.uint32) * jnp.uint32(GOLDEN) + order)
    for back in range(order, 0, -1):
        state = mix(state * jnp.uint32(31) + windows[..., -back].astype(jnp.uint32))
    return state


def hash_order(windows: jax.Array, period: int, seed: int) -> jax.Array:
    """Hash each token of a window together with its distance from the end, modulo `period`.

    Two windows with the same tokens in another order have other hashes (period > 1).

    Args:
      windows: int (..., L), the newest token last.
      period: distances are equal modulo this.
      seed: gives independent hashes.

    Returns:
      uint32 (..., L).
    """
    length = windows.shape[-1]
    places = jnp.arange(length - 1, -1, -1, dtype=jnp.uint32) % jnp.uint32(period)
    places = mix(places * jnp.uint32(GOLDEN) + jnp.uint32(seed & 0xFFFFFFFF))
    return mix(windows.astype(jnp.uint32) ^ jnp.broadcast_to(places, windows.shape))
