"""Device-varying types inside `jax.shard_map`, where loops and custom derivatives need them equal.

With `check_vma=True`, the default, an array has in its type the mesh axes over which it varies. The
carry of a loop must not change them, and the cotangents of a custom derivative must have those of
its arguments. JAX casts implicitly for its own operations only; the transpose of a cast is the
`psum` that the gradient of a replicated parameter needs. Elsewhere these functions do nothing.

Source: docs.jax.dev, "Manual parallelism with shard_map", section on varying axes.
"""

import jax
import jax.numpy as jnp


def cast_alike(*trees):
    """Return the trees with every array varying over all axes over which any of them varies."""
    axes = varying_axes(trees)
    if not axes:
        return trees if len(trees) > 1 else trees[0]
    cast = jax.tree.map(lambda x: _cast(x, axes), trees)
    return cast if len(trees) > 1 else cast[0]


def cast_like(tree, *others):
    """Return the tree with every array varying over the axes of any array of it or the others."""
    axes = varying_axes((tree, others))
    return jax.tree.map(lambda x: _cast(x, axes), tree) if axes else tree


def varying_axes(tree) -> frozenset:
    """Return the mesh axes over which any array of the tree varies."""
    leaves = (x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array))
    return frozenset().union(*map(_axes, leaves))


def _axes(x) -> frozenset:
    kind = jax.typeof(x)
    if hasattr(kind, "mat"):  # JAX 0.12
        return frozenset(kind.mat.varying)
    return frozenset(kind.vma)


def varying_struct(x: jax.ShapeDtypeStruct, axes: frozenset) -> jax.ShapeDtypeStruct:
    """Return a shape struct that varies over mesh axes, which `pallas_call` wants named."""
    if not axes:
        return x
    if not hasattr(jax.typeof(jnp.zeros(())), "mat"):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, vma=axes)
    kind = jax.sharding.ManualAxisType(varying=axes)  # JAX 0.12
    return jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=kind)


def _cast(x, axes):
    missing = tuple(sorted(axes - _axes(x), key=str)) if isinstance(x, jax.Array) else ()
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def zeros_like(tree):
    """Return zeros of the tree's shapes, dtypes and varying axes."""
    return jax.tree.map(lambda x: cast_like(jnp.zeros_like(x), x), tree)
