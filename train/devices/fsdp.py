"""FSDP: parameters sharded over the mesh axis "fsdp", gathered once per step, not per token.

XLA's partitioner gathers a sharded matrix where it is used, inside the loops over time, and reduces
weight gradients at every iteration. Here the part of a step that runs the model is mapped over
"fsdp" manually: every chip gathers the parameters before the loops and computes on its own rows;
the gradients are reduce-scattered after the loops. The optimizer works on sharded arrays, under
XLA. The mesh axis "tensor" is left to XLA throughout.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

FSDP = "fsdp"
PyTree = Any


def parameter_spec(name: str, shape: Sequence[int], mesh: Any) -> P:
    """Return the partition of a leaf of the state over the mesh.

    Kernels and their moments: last axis over "tensor", the one before over "fsdp", where divisible.
    All else is replicated, including embeddings, because of the look-up.
    """
    if name.rsplit("/", 1)[-1] != "kernel" or len(shape) < 2 or FSDP not in mesh.axis_names:
        return P()
    fsdp = FSDP if mesh.shape[FSDP] > 1 and shape[-2] % mesh.shape[FSDP] == 0 else None
    tensor = (
        "tensor" if mesh.shape["tensor"] > 1 and shape[-1] % mesh.shape["tensor"] == 0 else None
    )
    return P(*([None] * (len(shape) - 2)), fsdp, tensor)


def gathered_once(compute: Callable, *, gradients: Sequence[str]) -> Callable:
    """Map `compute` over "fsdp": each chip's rows, with whole parameters.

    Args:
      compute: (params, rows, shared, key) -> (rows, sums, grads): `params` a flat dict of whole
        arrays, `rows` a pytree with leading axis rows, `shared` a replicated pytree, `key` one key,
        a key per row (rows,) or None; `sums` and `grads` (of some `params`) sums over rows.
      gradients: the names in `grads`.

    Returns:
      A function of the same signature, to be called where "fsdp" is an automatic axis of the
      current mesh; its parameters and gradients are sharded by `parameter_spec`.
    """

    def run(params, rows, shared, key):
        mesh = jax.sharding.get_abstract_mesh()
        axes = {name: _split_axis(name, x.shape, mesh) for name, x in params.items()}
        specs = {n: P() if axis is None else P(*[None] * axis, FSDP) for n, axis in axes.items()}

        by_row = key is not None and key.ndim == 1

        def one_chip(params, rows, shared, key):
            if not by_row and key is not None:
                key = jax.random.fold_in(key, jax.lax.axis_index(FSDP))
            whole = {name: _gather(x, axes[name]) for name, x in params.items()}
            rows, sums, grads = compute(whole, rows, shared, key)
            grads = {name: _sum_and_split(g, axes[name]) for name, g in grads.items()}
            return rows, jax.lax.psum(sums, FSDP), grads

        return jax.shard_map(
            one_chip,
            in_specs=(specs, P(FSDP), P(), P(FSDP) if by_row else P()),
            out_specs=(P(FSDP), P(), {name: specs[name] for name in gradients}),
            axis_names={FSDP},
            check_vma=False,
        )(params, rows, shared, key)

    return run


def _split_axis(name: str, shape: Sequence[int], mesh: Any) -> int | None:
    """Return the axis of an array that is sharded over "fsdp", or None."""
    spec = tuple(parameter_spec(name, shape, mesh))
    return spec.index(FSDP) if FSDP in spec else None


def _gather(x: jax.Array, axis: int | None) -> jax.Array:
    return x if axis is None else jax.lax.all_gather(x, FSDP, axis=axis, tiled=True)


def _sum_and_split(x: jax.Array, axis: int | None) -> jax.Array:
    if axis is None:
        return jax.lax.psum(x, FSDP)
    return jax.lax.psum_scatter(x, FSDP, scatter_dimension=axis, tiled=True)
