"""Parameters split over chips (the mesh axis "fsdp"), gathered once a step instead of once a token.

Left to XLA, a matrix that is split over chips is gathered where it is used: inside the loops over
time, again and again, and a weight gradient that the loop sums up is reduced at every turn of it.
Here the part of a step that runs the model is mapped over "fsdp" by hand: every chip gathers the
parameters before the loops, computes on its own rows, and the gradients are summed and split again
after the loops. Optimiser and the rest of the step see split arrays and stay with XLA.

"tensor", the mesh's third axis, is not touched: what is split there is meant to stay so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

FSDP = "fsdp"
PyTree = Any


def parameter_spec(name: str, shape: Sequence[int], mesh: Any) -> P:
    """Return the partition of a leaf of the state over the mesh.

    A kernel (and its moments): last axis over "tensor", the one before over "fsdp", each where it
    divides evenly. Everything else is replicated; an embedding too, because of the look-up.
    """
    if name.rsplit("/", 1)[-1] != "kernel" or len(shape) < 2 or FSDP not in mesh.axis_names:
        return P()
    fsdp = FSDP if mesh.shape[FSDP] > 1 and shape[-2] % mesh.shape[FSDP] == 0 else None
    tensor = (
        "tensor" if mesh.shape["tensor"] > 1 and shape[-1] % mesh.shape["tensor"] == 0 else None
    )
    return P(*([None] * (len(shape) - 2)), fsdp, tensor)


def gathered_once(compute: Callable, *, gradients: bool) -> Callable:
    """`compute` on each chip's share of the rows, with whole parameters.

    Args:
      compute: (params, rows, shared, key) -> (rows, sums, grads): `params` a flat dict of whole
        arrays, `rows` a pytree with a leading axis of rows, `shared` a pytree that is the same
        everywhere, `key` a random key of its own for each chip or None, `sums` a pytree of sums
        over rows, `grads` the sum over rows for each of `params`, or {}.
      gradients: whether `grads` has anything in it.

    Returns:
      A function of the same arguments and results, to be called where "fsdp" is an automatic axis
      of the mesh at hand. Outside, parameters and gradients are split as `parameter_spec` says.
    """

    def run(params, rows, shared, key):
        mesh = jax.sharding.get_abstract_mesh()
        axes = {name: _split_axis(name, x.shape, mesh) for name, x in params.items()}
        specs = {n: P() if axis is None else P(*[None] * axis, FSDP) for n, axis in axes.items()}

        def one_chip(params, rows, shared, key):
            if key is not None:
                key = jax.random.fold_in(key, jax.lax.axis_index(FSDP))
            whole = {name: _gather(x, axes[name]) for name, x in params.items()}
            rows, sums, grads = compute(whole, rows, shared, key)
            grads = {name: _sum_and_split(g, axes[name]) for name, g in grads.items()}
            return rows, jax.lax.psum(sums, FSDP), grads

        return jax.shard_map(
            one_chip,
            in_specs=(specs, P(FSDP), P(), P()),
            out_specs=(P(FSDP), P(), specs if gradients else {}),
            axis_names={FSDP},
            check_vma=False,
        )(params, rows, shared, key)

    return run


def _split_axis(name: str, shape: Sequence[int], mesh: Any) -> int | None:
    """The axis of an array that lies over "fsdp", if any."""
    spec = tuple(parameter_spec(name, shape, mesh))
    return spec.index(FSDP) if FSDP in spec else None


def _gather(x: jax.Array, axis: int | None) -> jax.Array:
    return x if axis is None else jax.lax.all_gather(x, FSDP, axis=axis, tiled=True)


def _sum_and_split(x: jax.Array, axis: int | None) -> jax.Array:
    if axis is None:
        return jax.lax.psum(x, FSDP)
    return jax.lax.psum_scatter(x, FSDP, scatter_dimension=axis, tiled=True)
