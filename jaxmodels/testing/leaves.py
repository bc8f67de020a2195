"""Leaves of a module or a state that are not float arrays: set apart, so that the rest is judged.

A forked cell may hold PRNG keys, integers or flags; JAX differentiates none of them.
"""

import jax
import jax.numpy as jnp
import numpy as np


def is_float(x) -> bool:
    """Return True for an array of real numbers."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def is_key(x) -> bool:
    """Return True for an array of PRNG keys, as `jax.random.key` makes them."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def floats_of(tree):
    """Return the tree with None in place of every leaf that is not a float array."""
    return jax.tree.map(lambda x: x if is_float(x) else None, tree)


def joined(floats, tree):
    """Return the tree with its float arrays replaced by those of `floats_of`."""
    return jax.tree.map(
        lambda new, old: old if new is None else new, floats, tree, is_leaf=lambda x: x is None
    )


def plain(x):
    """Return an array as NumPy can hold it: the numbers of a key, everything else as it is."""
    return jax.random.key_data(x) if is_key(x) else x


def meaningless(x) -> np.ndarray:
    """Return an array like x of NaN, or of integers that are unlikely to be right."""
    if np.issubdtype(x.dtype, np.integer):
        return np.full_like(x, np.iinfo(x.dtype).max // 3)
    return np.full_like(x, np.nan if np.issubdtype(x.dtype, np.floating) else True)
