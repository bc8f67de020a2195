"""Conversion of modules to flat and nested dicts of named leaves.

A leaf's name is its attribute path, e.g. "layers/cell/gate/kernel"; optimizer states, metrics and
checkpoints use it.
"""

from __future__ import annotations

from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

Flat = dict[str, jax.Array]
PyTree = Any


def leaf_name(path, separator: str = "/") -> str:
    """Return a key path of `jax.tree_util` as text, without the `value` of an `nnx.Param`."""
    name = jax.tree_util.keystr(path, simple=True, separator=separator)
    return name.removesuffix(f"{separator}value").removesuffix(f"{separator}raw_value")


def flatten(tree: PyTree, separator: str = "/") -> Flat:
    """Return the leaves of a module by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path, separator): leaf for path, leaf in leaves}


def unflatten(tree: PyTree, flat: Flat, separator: str = "/") -> PyTree:
    """Return the module `tree` with its leaves replaced by those of `flat`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[leaf_name(path, separator)], tree)


def nest(tree: PyTree) -> dict[str, Any]:
    """Return the leaves as nested dicts keyed by attribute name, as checkpoints store them."""
    return unflatten_dict(flatten(tree), sep="/")


def unnest(tree: PyTree, nested: dict[str, Any]) -> PyTree:
    """Return the module `tree` with its leaves taken from `nested`, the inverse of `nest`."""
    return unflatten(tree, flatten_dict(nested, sep="/"))
