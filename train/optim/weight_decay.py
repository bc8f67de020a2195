"""Decoupled weight decay, by column (docs/systems.md, G-21).

A parameter named `kernel` decays, except for the columns that its metadata `undecayed` lists, from
which a gate or a step size is computed (`jaxmodels/cells/layers.py`): decay would pull a gate to
1/2 and a step size to its bias. A matrix may hold both kinds, as Mamba's `in_proj` does. Masking
its columns leaves layout, converters and matmuls as they are; splitting the parameter would not.
"""

from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from jaxmodels.tree import leaf_name

Factors = dict[str, float | np.ndarray]


def is_kernel(name: str) -> bool:
    """Return whether a parameter is a matrix, by its name."""
    return name.rsplit("/", 1)[-1] == "kernel"


def decay_factors(model: Any) -> Factors:
    """Return the factor of the weight decay of every parameter, by name.

    It is 1.0, 0.0, or a float32 array (1, ..., columns) of both. Arrays of `model` may be abstract.
    """
    leaves = jax.tree_util.tree_leaves_with_path(
        model, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    return {leaf_name(path): _factor(leaf_name(path), leaf) for path, leaf in leaves}


def _factor(name, leaf):
    if not is_kernel(name):
        return 0.0
    ranges = leaf.get_metadata("undecayed", ()) if isinstance(leaf, nnx.Variable) else ()
    if not ranges:
        return 1.0
    factor = np.ones((*(1,) * (leaf.ndim - 1), leaf.shape[-1]), np.float32)
    for start, stop in ranges:
        factor[..., start:stop] = 0.0
    return float(factor.flat[0]) if factor.all() or not factor.any() else factor


def add_weight_decay(rate: float, factors: Factors) -> optax.GradientTransformation:
    """Add rate * factor * parameter to the updates, flat dicts by name."""

    def update(updates, state, params=None):
        if rate == 0.0:
            return updates, state
        # `optax.partition` replaces the leaves of other groups by placeholders.
        return {
            name: x if isinstance(x, optax.MaskedNode) else x + rate * factors[name] * params[name]
            for name, x in updates.items()
        }, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
